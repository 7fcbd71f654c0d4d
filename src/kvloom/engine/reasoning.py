"""Reasoning at the beginning of an answer: where it ends in its tokens, and how long it may get."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from kvloom.engine.text import TokenStream

_SPACE = " \t\r\n"


class TokenTexts(Protocol):
    """What is needed of a tokenizer."""

    def encode(self, text: str, add_special_tokens: bool | None = True) -> list[int]: ...
    def stream(self, skip_special_tokens: bool, after: list[int], /) -> TokenStream: ...


@dataclass(frozen=True, slots=True)
class ReasoningForm:
    """The marks around it. ``begins``: an answer is reasoning up to ``close`` even where ``open`` was left out."""

    open: str
    close: str
    begins: bool = False


@dataclass(frozen=True, slots=True)
class ReasoningBudget:
    """``tokens``: of reasoning, between its marks; after so many it is ended. ``inside``: as of ``ReasoningTokens``."""

    tokens: int
    form: ReasoningForm
    inside: bool | None = None


@dataclass(slots=True)
class ReasoningTokens:
    """Counts an answer's tokens up to the end of its reasoning, marks included, however they arrive.

    ``inside``: whether the last token is within; None: it has not begun yet, and may. ``begun``: tokens up to the end
    of the first mark.
    """

    form: ReasoningForm
    tokenizer: TokenTexts
    inside: bool | None
    value: int = 0
    begun: int = 0
    _text: str = ""
    _stream: TokenStream = field(init=False)

    def __post_init__(self) -> None:
        self._stream = self.tokenizer.stream(False, [])

    def take(self, token_ids: Sequence[int]) -> None:
        for token in token_ids if self.inside is not False else ():
            self._text += self._stream.push(token)
            self.value += 1
            if self.inside is None:
                self._begin()
            if self.inside and self.form.close in self._text:
                self.inside = False
            if self.inside is False:
                break
            if self.inside:
                self._text = self._text[1 - len(self.form.close) :]

    def _begin(self) -> None:
        said = self._text.lstrip(_SPACE)
        if said.startswith(self.form.open):
            self.inside, self.begun = True, self.value
        elif not self.form.open.startswith(said):
            self.inside, self.value = False, 0


@dataclass(slots=True)
class ReasoningLimit:
    """Ends the reasoning of one answer: after ``tokens`` of it, the tokens ``close`` are the next, whatever the scores
    are. ``over``: there is nothing left to end.
    """

    tokens: int
    close: Sequence[int]
    seen: ReasoningTokens
    _forced: int = 0

    @staticmethod
    def of(budget: ReasoningBudget, tokenizer: TokenTexts) -> ReasoningLimit:
        close = tokenizer.encode(budget.form.close, False)
        return ReasoningLimit(budget.tokens, close, ReasoningTokens(budget.form, tokenizer, budget.inside))

    @property
    def over(self) -> bool:
        return self.seen.inside is False

    @property
    def next(self) -> int | None:
        """The token that has to come; None: any may."""
        spent = bool(self.seen.inside) and self.seen.value - self.seen.begun - self._forced >= self.tokens
        return self.close[self._forced] if spent and self._forced < len(self.close) else None

    def take(self, token: int) -> None:
        """``token`` is the next: the one that had to come, if there was one."""
        self._forced += self.next is not None
        self.seen.take((token,))
