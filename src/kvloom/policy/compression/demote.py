"""Punctuation and white space that repeats is scored down: what the first of its kind says, the others say again.

A scorer's numbers may be of any sign and size, so it is by rank: an entry gets the score of the one that ranks so much
lower in its KV head. Thus it goes with any scorer, and what scores can be compared with remains.

Legend: S entries, K KV heads.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kvloom.errors import ParamsError
from kvloom.policy.compression.base import Floats, LayerContext
from kvloom.policy.compression.needs import Given, Need


@dataclass(frozen=True, slots=True)
class Demote:
    """``demote``: the share of its rank that such an entry loses, 0 to 1; with 1 it ranks with the lowest.

    What is ``REQUIRED`` remains so.
    """

    demote: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.demote <= 1:
            raise ParamsError(f"demote must be a share from 0 to 1, got {self.demote!r}", param="demote")

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Given.STRUCTURE}) if self.demote else frozenset()

    def lowered(self, scores_KS: Floats, context: LayerContext) -> Floats:
        if not self.demote:
            return scores_KS
        assert context.structure_S is not None
        lowered_KS = scores_KS.copy()
        for scores_S, lowered_S in zip(scores_KS, lowered_KS, strict=True):
            places = np.flatnonzero(np.isfinite(scores_S))
            order = places[np.argsort(scores_S[places], kind="stable")]
            ranks = np.flatnonzero(context.structure_S[order])
            lowered_S[order[ranks]] = scores_S[order[np.floor(ranks * (1 - self.demote)).astype(np.int64)]]
        return lowered_KS


def structure_of(tokens: Sequence[int], text_of: Callable[[int], str]) -> npt.NDArray[np.bool_]:
    """Which tokens are punctuation or white space, and there was the same one before.

    >>> structure_of([3, 1, 2, 1, 2, 3], {1: ",", 2: " a", 3: " ("}.__getitem__).tolist()
    [False, False, False, True, False, True]
    """
    known, first, place = np.unique(np.array(tokens, np.int64), return_index=True, return_inverse=True)
    structural = np.array([_is_structure(text_of(int(token))) for token in known], np.bool_)
    structure_S: npt.NDArray[np.bool_] = structural[place] & (np.arange(len(tokens)) != first[place])
    return structure_S


def _is_structure(text: str) -> bool:
    """Whether there is nothing else in it. A part of a character (U+FFFD) is none."""
    return bool(text) and all(each.isspace() or unicodedata.category(each)[0] in "PZ" for each in text)
