"""Layers whose scores are concentrated on few entries keep few; all KV heads of a layer keep alike.

Source: XKV (Li et al. 2024, arXiv 2412.05896) and its code: the gain of a layer's j-th slot is the sum over heads of
the j-th highest score, divided by the layer's sum of scores; slots go, one after another, to the layer where they gain
most. Gains fall within a layer, so that this is the best division there is. Its scores are SnapKV's (``snapkv``, window
8, kernel 7); others that mean shares will do.
We differ: slots are of KV heads, not of query heads; they are given for each context instead of once from a sample, and
as many as the ratio leaves, not as many as retain a share of the sum; where layers have more heads than others, gains
count by entry; ``REQUIRED`` entries come before all others and are no part of the sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from kvloom.errors import RequestError
from kvloom.policy.compression.base import Counts, Floats, LayerScores, Origin
from kvloom.policy.compression.heads import Heads


@dataclass(frozen=True, slots=True)
class Xkv:
    name: ClassVar[str] = "xkv"

    def kept(self, ratio: float, scores: Sequence[LayerScores], origin: Origin) -> list[Counts]:
        if not scores:
            return []
        heads = Heads.of(ratio, scores)
        least = [int(least_K.max(initial=0)) for least_K in heads.by_layer(heads.least_N)]
        counts = [np.full(len(one), n, np.int64) for one, n in zip(scores, least, strict=True)]
        slots = _by_gain([_even(one) for one in scores], least)
        left = heads.total - sum(int(count_K.sum()) for count_K in counts)
        widths = np.array([len(one) for one in scores], np.int64)[slots]
        whole = int(np.searchsorted(np.cumsum(widths), left, side="right"))
        for layer, given in enumerate(np.bincount(slots[:whole], minlength=len(scores))):
            counts[layer] += given
        rest = left - int(widths[:whole].sum())
        if rest:  # less than a slot: for as many heads of the next layer
            counts[slots[whole]][:rest] += 1
        return heads.by_layer(heads.within(np.concatenate(counts)))


def _even(layer: LayerScores) -> Floats:
    """(K, S): entries that only other KV heads have gain nothing."""
    scores_KS = np.zeros((len(layer), max(map(len, layer), default=0)), np.float32)
    for scores_S, into_S in zip(layer, scores_KS, strict=True):
        into_S[: len(scores_S)] = scores_S
    return scores_KS


def _by_gain(scores: Sequence[Floats], least: Sequence[int]) -> npt.NDArray[np.intp]:
    """Whose turn it is, slot by slot, after every layer has its least. Of equals, the one that has fewer."""
    gains = [slot_gains(one)[n:] / max(1, len(one)) for one, n in zip(scores, least, strict=True)]
    slots = np.repeat(np.arange(len(gains)), [len(gains_S) for gains_S in gains])
    ranks = np.concatenate([np.arange(n, n + len(one)) for one, n in zip(gains, least, strict=True)])
    return slots[np.lexsort((slots, ranks, -np.concatenate(gains)))]


def slot_gains(scores_KS: Floats) -> npt.NDArray[np.float64]:
    """(S,), falling: the share of a layer's sum that each slot adds; infinite where an entry is required.

    Raises RequestError when a score is negative.

    >>> slot_gains(np.array([[1, 3], [0, 4]], np.float32)).tolist()
    [0.875, 0.125]
    """
    if (scores_KS < 0).any():
        raise RequestError("xkv needs scores that are not negative: it compares their shares of a layer's sum")
    falling_KS = -np.sort(-scores_KS.astype(np.float64), axis=1)
    total = float(falling_KS[np.isfinite(falling_KS)].sum())
    gains_S: npt.NDArray[np.float64] = falling_KS.sum(axis=0) / (total or 1.0)
    return gains_S
