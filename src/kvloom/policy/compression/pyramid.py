"""Layers near the input keep more than those near the output, evenly from one to the next.

Source: PyramidKV (Cai et al. 2024, arXiv 2406.02069): with C entries per layer on average, the last layer keeps C/beta,
the first 2C - C/beta. When the first would keep more than there is, it keeps all, and the last 2C - S, as in kvpress.
We differ: no window is set apart (``Protect`` does that), totals are exact instead of rounded layer by layer, and a
steep pyramid is cut off at one entry, where kvpress falls back to even budgets below its window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from kvloom.errors import ParamsError
from kvloom.policy.compression.base import Counts, LayerScores, Origin
from kvloom.policy.compression.heads import Heads, apportion


@dataclass(frozen=True, slots=True)
class Pyramid:
    """``beta``: the steepness, 1 for none."""

    name: ClassVar[str] = "pyramid"
    beta: float = 20.0

    def __post_init__(self) -> None:
        if not self.beta >= 1:
            raise ParamsError(f"beta must be a number from 1, got {self.beta!r}", param="beta")

    def kept(self, ratio: float, scores: Sequence[LayerScores], origin: Origin) -> list[Counts]:
        heads = Heads.of(ratio, scores)
        mean = heads.total / max(1, int(heads.size_N.sum()))
        depth_L = np.argsort(np.argsort(origin.layers))
        weights_N = slope(mean, self.beta, len(depth_L))[depth_L][heads.slot_N] * heads.size_N
        return heads.by_layer(apportion(weights_N, heads.total, heads.least_N, heads.size_N))


def slope(mean: float, beta: float, layers: int) -> npt.NDArray[np.float64]:
    """The share that each layer keeps.

    >>> slope(0.25, 4, 3).tolist(), slope(0.75, 20, 3).tolist()
    ([0.4375, 0.25, 0.0625], [1.0, 0.75, 0.5])
    """
    first = min(1.0, 2 * mean - mean / beta)
    return np.linspace(first, 2 * mean - first, layers) if layers > 1 else np.full(layers, mean)
