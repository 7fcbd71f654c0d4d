"""What allocators have in common: the KV heads of all layers in a row, and division without a remainder.

Legend: N KV heads of all layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kvloom.errors import ParamsError
from kvloom.policy.compression.base import REQUIRED, Counts, LayerScores
from kvloom.policy.compression.uniform import kept_of

_NEAR = 1e-9


@dataclass(frozen=True, slots=True, eq=False)
class Heads:
    """``slot_N``: which of the layers a head belongs to. ``size_N``: its entries. ``uniform_N``: how many an even
    division keeps. ``least_N``: no fewer may stay; one, and what is required, as far as an even division has room.
    """

    slot_N: Counts
    size_N: Counts
    uniform_N: Counts
    least_N: Counts

    @staticmethod
    def of(ratio: float, scores: Sequence[LayerScores]) -> Heads:
        heads = [scores_S for layer in scores for scores_S in layer]
        size_N = np.array([len(scores_S) for scores_S in heads], np.int64)
        uniform_N = np.array([kept_of(len(scores_S), ratio) for scores_S in heads], np.int64)
        required_N = np.array([np.count_nonzero(scores_S == REQUIRED) for scores_S in heads], np.int64)
        least_N = np.minimum(np.maximum(required_N, 1), uniform_N)
        return Heads(np.repeat(np.arange(len(scores)), [len(layer) for layer in scores]), size_N, uniform_N, least_N)

    @property
    def total(self) -> int:
        return int(self.uniform_N.sum())

    def at_least(self, floor: float) -> Counts:
        """``least_N``, and no less than this share of an even division."""
        least_N: Counts = np.maximum(self.least_N, np.floor(floor * self.uniform_N).astype(np.int64))
        return least_N

    def within(self, counts_N: Counts) -> Counts:
        """Of as many as ``total``: what a head does not have goes to the first that have more."""
        within_N: Counts = np.minimum(counts_N, self.size_N)
        room_N = self.size_N - within_N
        before_N = np.cumsum(room_N) - room_N
        within_N += np.clip(self.total - int(within_N.sum()) - before_N, 0, room_N)
        return within_N

    def by_layer(self, counts_N: Counts) -> list[Counts]:
        bounds = np.searchsorted(self.slot_N, np.arange(1, int(self.slot_N.max(initial=-1)) + 1))
        return np.split(counts_N, bounds) if len(counts_N) else []


def check_floor(floor: float) -> None:
    """Raises ParamsError unless it is a share."""
    if not 0 <= floor <= 1:
        raise ParamsError(f"floor must be a number from 0 to 1, got {floor!r}", param="floor")


def best_of_all(scores: Sequence[LayerScores], total: int, least_N: Counts) -> Counts:
    """How many of each head are among the ``total`` best, of which ``least_N`` of each head are for certain.

    >>> best_of_all([np.array([[9, 1, 8], [2, 3, 0]], np.float32)], 3, np.array([0, 0])).tolist()
    [2, 1]
    """
    falling = [-np.sort(-scores_S) for layer in scores for scores_S in layer]
    sizes = [len(scores_S) for scores_S in falling]
    falling_E, rank_E = np.concatenate(falling), np.concatenate([np.arange(size) for size in sizes])
    head_E = np.repeat(np.arange(len(sizes)), sizes)
    free_E = rank_E >= least_N[head_E]
    order = np.lexsort((head_E[free_E], rank_E[free_E], -falling_E[free_E]))
    best = head_E[free_E][order[: total - int(least_N.sum())]]
    return least_N + np.bincount(best, minlength=len(least_N)).astype(np.int64)


def apportion(weights_N: npt.NDArray[np.float64], total: int, least_N: Counts, most_N: Counts) -> Counts:
    """Divide ``total`` in proportion to weights that are not negative, between bounds, exactly and always the same.

    Webster's method: every part is its weight times one common factor, rounded to the nearest. Unlike largest
    remainders, a larger total gives nobody less. Of equals the earlier gets one more. The bounds must admit the total.

    >>> apportion(np.array([3.0, 1.0, 1.0]), 6, np.array([0, 0, 0]), np.array([9, 9, 9])).tolist()
    [4, 1, 1]
    """
    assert least_N.sum() <= total <= most_N.sum(), (int(least_N.sum()), total, int(most_N.sum()))
    positive_N = weights_N[weights_N > 0]
    low, high = 0.0, float(most_N.max(initial=0) + 1) / float(positive_N.min()) if len(positive_N) else 0.0

    def at(factor: float) -> Counts:
        parts_N: Counts = np.clip(np.floor(factor * weights_N + 0.5), least_N, most_N).astype(np.int64)
        return parts_N

    while high - low > _NEAR * high and low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if at(middle).sum() <= total else (low, middle)
    counts_N = at(low * (1 - _NEAR))  # who is about as near to one more takes turns, so that rounding decides nothing
    while rest := total - int(counts_N.sum()):
        with np.errstate(divide="ignore"):
            turn_N = np.where(counts_N < most_N, (counts_N + 0.5) / weights_N, np.nan)  # nan sorts last
        order = np.argsort(turn_N, kind="stable")[: np.count_nonzero(counts_N < most_N)]
        counts_N[order[:rest]] += 1
    return counts_N
