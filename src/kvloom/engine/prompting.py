"""From what is asked of the library to tokens: texts, token ids, parts of which some are documents, conversations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kvloom.engine.cache_params import CacheParams
from kvloom.engine.driving import Encoded
from kvloom.engine.intake import Intake
from kvloom.errors import RequestError
from kvloom.model.text.documents import Documents, Placeholders
from kvloom.model.text.tokenizer import Tokenizer

Message = Mapping[str, Any]
Part = str | Message
"""A text, or ``{"type": "document", "text": ...}``, a passage whose KV can be reused anywhere."""

Prompt = str | Sequence[int] | Mapping[str, Any]
"""Text, token ids, ``{"prompt": text}``, ``{"prompt": [part, ...]}`` or ``{"prompt_token_ids": ids}``."""

Prepared = tuple[Encoded, CacheParams]
"""A prompt's text and tokens, and how it uses the cache: with its documents where it marks some."""


@dataclass(frozen=True, slots=True)
class Prompting:
    """``intake``: of the engine, which knows how long prompts may be."""

    tokenizer: Tokenizer
    intake: Intake

    def prompt(self, given: Prompt, cache: CacheParams, add_special_tokens: bool | None) -> Prepared:
        """Raises RequestError."""
        if isinstance(given, Mapping):
            if "prompt_token_ids" in given:
                return (given.get("prompt"), token_ids(given["prompt_token_ids"])), cache
            if "prompt" not in given:
                raise RequestError("a prompt dict needs `prompt` or `prompt_token_ids`", param="prompt")
            given = given["prompt"]
            if isinstance(given, list | tuple):
                return self._of_parts(given, cache, add_special_tokens)
        if isinstance(given, str):
            longest = self.intake.longest(cache)
            return (given, self.tokenizer.encode(given, add_special_tokens, max_tokens=longest)), cache
        return (None, token_ids(given)), cache

    def chat(self, turns: Sequence[Message], cache: CacheParams, variables: Mapping[str, Any] | None) -> Prepared:
        """Through the model's own chat template. Raises RequestError, or ModelError when there is none."""
        documents = Documents.of(turns, Placeholders.new())
        text = self.tokenizer.chat_prompt(documents.hidden(turns), chat_template_kwargs=variables)
        return self._encoded(text, documents, cache, False)

    def _of_parts(self, parts: Sequence[Part], cache: CacheParams, add_special_tokens: bool | None) -> Prepared:
        whole = {"role": "user", "content": parts}
        documents = Documents.of([whole], Placeholders.new())
        (hidden,) = documents.hidden([whole])
        texts = [part["text"] if isinstance(part, Mapping) and "text" in part else part for part in hidden["content"]]
        if not all(isinstance(text, str) for text in texts):
            raise RequestError(
                "a part of a prompt is neither a text nor a document",
                hint='"...", or {"type": "document", "text": "..."}',
                param="prompt",
            )
        return self._encoded("".join(texts), documents, cache, add_special_tokens)

    def _encoded(
        self, text: str, documents: Documents, cache: CacheParams, add_special_tokens: bool | None
    ) -> Prepared:
        """``text``: with placeholders."""
        documents.check(text)
        longest = self.intake.longest(cache)
        found = documents.encoded(text, self.tokenizer.encode, add_special_tokens, longest)
        return (documents.shown(text), found.ids), cache.over(found.documents)


def as_list(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    if isinstance(prompts, str | Mapping) or (prompts and all(isinstance(item, int) for item in prompts)):
        return [prompts]  # type: ignore[list-item]
    return list(prompts)  # type: ignore[arg-type]


def token_ids(ids: Any) -> list[int]:
    tokens = list(ids)
    if any(isinstance(token, bool) or not isinstance(token, int) for token in tokens):
        raise RequestError("token ids must be whole numbers", param="prompt_token_ids")
    return tokens
