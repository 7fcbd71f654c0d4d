"""A passage: what is computed alone, so that prompts can have it anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from kvloom.errors import RequestError

Given = str | Sequence[int]
"""A passage as it is asked for: its text, or its token ids without the start token that it is computed behind."""


class PassageTokenizer(Protocol):
    """What passages need of a tokenizer."""

    @property
    def lead(self) -> tuple[int, ...]: ...
    @property
    def identity(self) -> str: ...
    def encode(self, text: str, add_special_tokens: bool | None = True, max_tokens: int | None = None) -> list[int]: ...


@dataclass(frozen=True, slots=True)
class Passage:
    """``tokens``: those that are computed, of which the first ``lead`` come before the passage."""

    tokens: tuple[int, ...]
    lead: int = 0


def passage_of(given: Given, tokenizer: PassageTokenizer, max_tokens: int) -> Passage:
    """What is asked for, as a passage.

    ``max_tokens``: that a sequence may have. Raises RequestError for one that is empty, PromptTooLong for a text that
    is certain to be too long.
    """
    if isinstance(given, str):
        tokens = tokenizer.encode(given, add_special_tokens=False, max_tokens=max_tokens)
    else:
        tokens = list(given)
    if not tokens:
        raise RequestError("a passage is empty: at least one token is needed", param="passages")
    return Passage((*tokenizer.lead, *tokens), len(tokenizer.lead))
