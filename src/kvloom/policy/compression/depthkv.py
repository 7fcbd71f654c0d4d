"""Layers that bear it lose more; those in the middle, and the first, may be spared.

Source: DepthKV (Dehghanighobadi and Fischer 2026, arXiv 2604.24647): a layer loses in proportion to its InfoNCE, an
invariance measured beforehand (low means sensitive), at most ``cap`` of its entries, and what that leaves over is
divided among the others (MGA). Spared middle layers with even losses elsewhere are its MLP rule, with InfoNCE its MLMA.
The paper does not say how it goes on where the spared layers leave too little to remove; we refuse. Losses are exact
shares; counts of entries are rounded so that their total is exact.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from kvloom.errors import DataFileError, ParamsError
from kvloom.policy.compression.base import Counts, LayerScores, Origin
from kvloom.policy.compression.heads import Heads, apportion
from kvloom.policy.compression.tables import read_table
from kvloom.policy.compression.words import FILE

Shares = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class DepthKv:
    """``cap``: the largest share that a layer may lose. ``spared_first``, ``spared_middle``: how many layers lose
    nothing, at the beginning and in the middle. ``sensitivity``: a text file with a number for each layer of the model,
    its InfoNCE; without one, all are alike. Raises DataFileError when it cannot be read.
    """

    name: ClassVar[str] = "depthkv"
    cap: float = 0.7
    spared_first: int = 1
    spared_middle: int = 0
    sensitivity: Path | None = field(default=None, metadata=FILE)
    _alpha_L: Shares | None = field(init=False, repr=False, compare=False, default=None)

    def __post_init__(self) -> None:
        if not 0 < self.cap <= 1:
            raise ParamsError(f"cap must be a share above 0 and at most 1, got {self.cap!r}", param="cap")
        for name in ("spared_first", "spared_middle"):
            if getattr(self, name) < 0:
                raise ParamsError(f"{name} must be a number of layers, got {getattr(self, name)}", param=name)
        if self.sensitivity is not None:
            alpha_L = read_table(self.sensitivity).reshape(-1)
            if not (np.isfinite(alpha_L) & (alpha_L > 0)).all():
                raise DataFileError("holds numbers that are not above 0", path=self.sensitivity)
            object.__setattr__(self, "_alpha_L", alpha_L)

    def kept(self, ratio: float, scores: Sequence[LayerScores], origin: Origin) -> list[Counts]:
        heads = Heads.of(ratio, scores)
        spared_L = self._spared(origin)
        lost_L = water_fill(self._alpha(origin), ratio, self.cap, spared_L)
        least_N = np.where(spared_L[heads.slot_N], heads.size_N, heads.least_N)
        if least_N.sum() > heads.total:  # by a few entries that rounding has made of a share
            raise _infeasible(ratio, self.cap, int(spared_L.sum()), len(spared_L))
        weights_N = (1 - lost_L)[heads.slot_N] * heads.size_N
        return heads.by_layer(apportion(weights_N, heads.total, least_N, heads.size_N))

    def _alpha(self, origin: Origin) -> Shares:
        if self._alpha_L is None:
            return np.ones(len(origin.layers))
        if max(origin.layers, default=-1) >= len(self._alpha_L):
            raise ParamsError(
                f"`{self.sensitivity}` has numbers for {len(self._alpha_L)} layers; the model has more",
                param="sensitivity",
            )
        return self._alpha_L[list(origin.layers)]

    def _spared(self, origin: Origin) -> npt.NDArray[np.bool_]:
        """By slot. The middle of L layers is L // 2 and the one after it, and as many on both sides of these."""
        depth_L = np.argsort(np.argsort(origin.layers))
        start = len(depth_L) // 2 + 1 - max(1, self.spared_middle // 2)
        return (depth_L < self.spared_first) | ((depth_L >= start) & (depth_L < start + self.spared_middle))


def water_fill(alpha_L: Shares, ratio: float, cap: float, spared_L: npt.NDArray[np.bool_]) -> Shares:
    """The share that each layer loses: ``ratio`` on average, in proportion to alpha, at most ``cap``; the spared none.

    Raises ParamsError when that cannot be.

    >>> water_fill(np.array([1.0, 1.0, 4.0]), 0.4, 0.5, np.array([True, False, False])).round(3).tolist()
    Traceback (most recent call last):
    ...
    kvloom.errors.ParamsError: ratio 0.4 cannot be had: 1 of 3 layers lose nothing, the others at most 0.5 each
    >>> water_fill(np.array([1.0, 1.0, 4.0]), 0.3, 0.6, np.array([True, False, False])).round(3).tolist()
    [0.0, 0.3, 0.6]
    """
    lost_L, free_L = np.zeros(len(alpha_L)), ~spared_L
    left = ratio * len(alpha_L)
    if left > np.count_nonzero(free_L) * cap * (1 + 1e-12):
        raise _infeasible(ratio, cap, int(spared_L.sum()), len(alpha_L))
    while free_L.any():
        lost_L[free_L] = left * alpha_L[free_L] / math.fsum(alpha_L[free_L])
        over_L = free_L & (lost_L > cap)
        if not over_L.any():
            break
        lost_L[over_L] = cap
        left = max(0.0, left - cap * np.count_nonzero(over_L))
        free_L &= ~over_L
    return lost_L


def _infeasible(ratio: float, cap: float, spared: int, layers: int) -> ParamsError:
    return ParamsError(
        f"ratio {ratio:g} cannot be had: {spared} of {layers} layers lose nothing, the others at most {cap:g} each",
        hint="a smaller ratio, a larger cap, or fewer layers that are spared",
        param="ratio",
    )
