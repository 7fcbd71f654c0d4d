"""What stays whatever its score: the first and the last entries of a context, and spans that the request names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from kvloom.errors import ParamsError
from kvloom.policy.compression.base import REQUIRED, Candidates, Counts

_MOST_SPANS = 1000


@dataclass(frozen=True, slots=True)
class Protect:
    """``protect_first``, ``protect_last``: so many tokens at the beginning and at the end of the context stay before
    any other, as far as there is room. ``protect``: half-open spans of positions, ``10:20+40:50``, that must stay: what
    does not leave room for them is refused. Of a layer with a window, what it holds of them.
    """

    protect_first: int = 0
    protect_last: int = 0
    protect: str = ""

    def __post_init__(self) -> None:
        for name in ("protect_first", "protect_last"):
            if getattr(self, name) < 0:
                raise ParamsError(f"{name} must be a number of tokens, got {getattr(self, name)}", param=name)
        _ = self.spans

    @property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """Raises ParamsError when they cannot be read.

        >>> Protect(protect="0:8+20:24").spans
        ((0, 8), (20, 24))
        """
        parts = [part for part in self.protect.split("+", _MOST_SPANS) if part]
        if len(parts) > _MOST_SPANS:
            raise ParamsError(f"protect has more than {_MOST_SPANS} spans", param="protect")
        return tuple(map(_span, parts))

    def marked(self, each: Candidates) -> Candidates:
        """The same, the scores of what is protected ``REQUIRED``."""
        scores = [
            np.where(stays_S, REQUIRED, scores_S) if (stays_S := self.mask(positions_S)).any() else scores_S
            for positions_S, scores_S in zip(each.positions, each.scores, strict=True)
        ]
        return replace(each, scores=tuple(scores))

    def mask(self, positions_S: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """What is protected, of entries among which the context's last one is."""
        first_of_last = int(positions_S[-1]) + 1 - self.protect_last if len(positions_S) else 0
        ends_S = (positions_S < self.protect_first) | (positions_S >= first_of_last)
        return ends_S | self._spanned(positions_S)

    def check(self, candidates: Sequence[Candidates], counts: Sequence[Counts]) -> None:
        """Raises ParamsError when a KV head keeps fewer entries than its spans have."""
        if not self.protect:
            return
        for each, counts_K in zip(candidates, counts, strict=True):
            for positions_S, count in zip(each.positions, counts_K.tolist(), strict=True):
                if count < (spanned := int(self._spanned(positions_S).sum())):
                    raise ParamsError(
                        f"{spanned} entries of layer {each.layer} are protected, and only {count} would stay",
                        hint="a smaller ratio, or protect less",
                        param="protect",
                    )

    def _spanned(self, positions_S: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        stays_S = np.zeros(len(positions_S), np.bool_)
        for start, stop in self.spans:
            stays_S |= (positions_S >= start) & (positions_S < stop)
        return stays_S


def _span(text: str) -> tuple[int, int]:
    start, _, stop = text.partition(":")
    if not (len(text) < 40 and start.isdecimal() and stop.isdecimal() and int(start) < int(stop)):
        hint = "half-open spans of positions: protect=10:20+40:50"
        raise ParamsError(f"protect: cannot read `{text[:40]}` as a span", hint=hint, param="protect")
    return int(start), int(stop)
