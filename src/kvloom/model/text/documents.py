"""Documents in a prompt: texts that are tokenized by themselves, so that they have the same tokens in any prompt.

    turns with documents   [..., {"type": "document", "text": "Once upon ..."}, ...]
      hidden               [..., {"type": "text", "text": PLACEHOLDER}, ...]
      template             "<|user|> ... PLACEHOLDER ... <|end|>"
      encoded              token ids, and the span of each document

A template sees a placeholder for each document: it cannot change the document, and it is known where that begins and
ends.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from kvloom.errors import PromptTooLong, RequestError, context_overflow

MOST_DOCUMENTS = 256
"""In one conversation."""

_ROLES = ("system", "developer", "user")

Turn = Mapping[str, Any]
Spans = tuple[tuple[int, int], ...]
"""Of documents: pairs (start, stop) of positions in a prompt's tokens, ascending."""


class Encode(Protocol):
    """As ``Tokenizer.encode``."""

    def __call__(
        self, text: str, add_special_tokens: bool | None = True, max_tokens: int | None = None
    ) -> list[int]: ...


@dataclass(frozen=True, slots=True)
class Encoded:
    ids: list[int]
    documents: Spans = ()


@dataclass(frozen=True, slots=True)
class Placeholders:
    """What stands in the place of documents, which nobody who writes a text can know beforehand."""

    name: str

    @classmethod
    def new(cls) -> Placeholders:
        return cls(f"kvloom-document-{secrets.token_hex(12)}-")

    def of(self, number: int) -> str:
        return f"{self.name}{number}-"

    def split(self, text: str) -> list[str]:
        """Text, the number of a document, text, ..., text."""
        return re.split(rf"{re.escape(self.name)}([0-9]+)-", text)


@dataclass(frozen=True, slots=True)
class Documents:
    """``texts``: of the documents, in the order in which the conversation has them."""

    placeholders: Placeholders
    texts: tuple[str, ...] = ()

    @classmethod
    def of(cls, turns: Sequence[Turn], placeholders: Placeholders) -> Documents:
        """Raises RequestError for a document where none can be, and for too many."""
        texts = tuple(document_text(part) for turn in turns for part in _documents_in(turn))
        if len(texts) > MOST_DOCUMENTS:
            raise _bad(f"there are {len(texts)} documents, at most {MOST_DOCUMENTS} are allowed")
        return cls(placeholders, texts)

    def hidden(self, turns: Sequence[Turn]) -> list[dict[str, Any]]:
        """``turns`` with a placeholder for each document: all turns that this was made of, or the first of them."""
        numbers = iter(range(len(self.texts)))
        return [self._hidden(turn, numbers) for turn in turns]

    def check(self, prompt: str) -> None:
        """Raises RequestError unless the prompt has each placeholder once."""
        found = sorted(map(int, self.placeholders.split(prompt)[1::2]))
        if found != list(range(len(self.texts))):
            raise _bad(
                "the model's chat template does not show every document once",
                hint="send them as parts of the user's message",
            )

    def shown(self, prompt: str) -> str:
        """The prompt with the documents in their places."""
        parts = self.placeholders.split(prompt)
        parts[1::2] = [self.texts[int(number)] for number in parts[1::2]]
        return "".join(parts)

    def encoded(self, prompt: str, encode: Encode, add_special_tokens: bool | None, max_tokens: int | None) -> Encoded:
        """Tokens of a prompt with placeholders. Each document is a text of its own, and so is what stands between two.

        ``add_special_tokens``: to the beginning of the prompt. Raises RequestError for a document without a token, and
        PromptTooLong, as soon as it is certain.
        """
        if not self.texts:
            return Encoded(encode(prompt, add_special_tokens, max_tokens))
        ids: list[int] = []
        spans = []
        for n, part in enumerate(self.placeholders.split(prompt)):
            start, is_document = len(ids), n % 2 == 1
            text = self.texts[int(part)] if is_document else part
            if text or n == 0:
                ids += encode(text, add_special_tokens if n == 0 else False, max_tokens)
            if is_document and len(ids) == start:
                raise _bad(f"document {int(part)} is empty")
            if is_document:
                spans.append((start, len(ids)))
            if max_tokens is not None and len(ids) > max_tokens:
                detail = f"it has more than {len(ids):,} tokens, documents included."
                raise PromptTooLong(context_overflow(max_tokens, detail), hint="fewer documents", param="prompt")
        return Encoded(ids, tuple(spans))

    def _hidden(self, turn: Turn, numbers: Iterator[int]) -> dict[str, Any]:
        if not _documents_in(turn):
            return dict(turn)
        content = [
            {"type": "text", "text": self.placeholders.of(next(numbers))} if _is_document(part) else part
            for part in turn["content"]
        ]
        return {**turn, "content": content}


def document_text(part: Mapping[str, Any]) -> str:
    """A document's whole text: title and context, if there are any, and what it says, each on lines of its own."""
    for name in ("title", "context", "text"):
        if not isinstance(part.get(name), str | None):
            raise _bad(f"the `{name}` of a document is not a string")
    if part.get("text") is None:
        raise _bad("a document has no `text`", hint='{"type": "document", "text": "...", "title": "..."}')
    said = [part.get("title"), part.get("context"), part["text"]]
    return "\n".join(text for text in said if text)


def _documents_in(turn: Turn) -> list[Mapping[str, Any]]:
    content = turn.get("content") if isinstance(turn, Mapping) else None
    if not isinstance(content, list | tuple):
        return []
    found = [part for part in content if _is_document(part)]
    if found and turn.get("role") not in _ROLES:
        raise _bad(
            f"a document in a message of role {turn.get('role')!r}",
            hint=f"documents are parts of messages of role {', '.join(_ROLES)}",
        )
    return found


def _is_document(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("type") == "document"


def _bad(message: str, hint: str | None = None) -> RequestError:
    return RequestError(message, hint=hint, param="messages")
