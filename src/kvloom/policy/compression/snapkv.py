"""Entries stay to which the last queries of the context attend, and their neighbours.

Source: SnapKV (Li et al. 2024, arXiv 2404.14469), group mean and mean pooling as in kvpress (window 64, kernel 5).
We differ: maxima are taken of the group's mean, not by query head. A context that is no longer than the window is
scored as a whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from kvloom.errors import ParamsError
from kvloom.policy.compression.base import REQUIRED, Floats, LayerContext
from kvloom.policy.compression.needs import Attention, Last, Need
from kvloom.policy.compression.pooling import check_pooling, pooled


@dataclass(frozen=True, slots=True)
class SnapKv:
    """``window``: how many last queries of the context vote; their own entries stay. ``kernel``: how many neighbours
    share a vote, odd. ``pool``: how, by their ``mean``, which is zero outside the context, or by their ``max``.
    """

    name: ClassVar[str] = "snapkv"
    window: int = 64
    kernel: int = 5
    pool: str = "mean"

    def __post_init__(self) -> None:
        if self.window < 1:
            raise ParamsError(f"window must be a number of queries, got {self.window}", param="window")
        check_pooling(self.kernel, self.pool)

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Attention(Last(self.window))})

    def scores(self, context: LayerContext) -> Floats:
        sums_KS = context.measured.attention_KS
        assert sums_KS is not None
        count = sums_KS.shape[1]
        before = count - self.window if count > self.window else count
        means_KS = sums_KS[:, :before].astype(np.float64) / (min(self.window, count) * context.queries.group)
        scores_KS = np.full(sums_KS.shape, REQUIRED, np.float32)
        scores_KS[:, :before] = pooled(means_KS, self.kernel, self.pool)
        return scores_KS
