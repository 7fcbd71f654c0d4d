"""What a chat template writes around a prompt, split so that a context can be compressed without the question.

The header precedes the context and is compressed with it; the footer, which opens the answer, follows the question. As
in kvpress, so that scores can be compared.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from kvloom.errors import EvalError
from kvloom.eval.subject import Subject

_MARK = "what is asked"


@runtime_checkable
class Chatting(Protocol):
    """A tokenizer that may have a chat template."""

    @property
    def has_chat_template(self) -> bool: ...
    def chat_prompt(self, messages: list[dict[str, Any]], *, chat_template_kwargs: dict[str, Any]) -> str: ...


@dataclass(frozen=True, slots=True)
class Frame:
    """One user message, and the beginning of its answer."""

    header: str
    footer: str

    @property
    def digest(self) -> str:
        """Identifies the frame: some templates write the date."""
        return hashlib.sha256(f"{self.header}\0{self.footer}".encode()).hexdigest()[:16]

    def num_tokens(self, subject: Subject) -> int:
        """Tokens that the frame adds to a prompt."""
        return subject.text_length(self.header) + subject.text_length(self.footer)


def frame_of(subject: Subject, chat: bool | None = None) -> Frame | None:
    """The frame of a model's chat template, if requested; ``chat`` None uses it if the model has one.

    Thinking is disabled. Raises EvalError when there is no template, or it does not reproduce a message unchanged.
    """
    tokenizer = subject.tokenizer
    if not isinstance(tokenizer, Chatting) or not tokenizer.has_chat_template:
        if chat:
            hint = "leave out --chat: it is a base model, which goes on with texts"
            raise EvalError(f"`{subject.name}` has no chat template", hint=hint)
        return None
    if chat is False:
        return None
    message = {"role": "user", "content": _MARK}
    prompt = tokenizer.chat_prompt([message], chat_template_kwargs={"enable_thinking": False})
    header, *rest = prompt.split(_MARK)
    if len(rest) != 1:
        raise EvalError(
            f"the chat template of `{subject.name}` does not render messages exactly once", hint="use --no-chat"
        )
    return Frame(header, rest[0])
