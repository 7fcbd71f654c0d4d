"""Entries stay to which the model attends when it goes on from the context by itself, and their neighbours.

Source: LAQ (arXiv 2505.20334): the votes of SnapKV, cast by queries of a few tokens that the model would say, as those
of an answer look elsewhere than those at the end of the context. We differ: these tokens are decoded over the exact
cache, which is still there, the paper's over one that a cheap method has made smaller; and the last queries of the
context, which vote with them in its LAQ++, do not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from kvloom.errors import ParamsError
from kvloom.policy.compression.base import Floats, LayerContext
from kvloom.policy.compression.needs import Attention, Need, Said
from kvloom.policy.compression.pooling import check_pooling, pooled


@dataclass(frozen=True, slots=True)
class Laq:
    """``ahead``: how many tokens the model goes on with, at a decode step each. ``kernel``, ``pool``: as SnapKV's."""

    name: ClassVar[str] = "laq"
    ahead: int = 16
    kernel: int = 5
    pool: str = "mean"

    def __post_init__(self) -> None:
        if not 1 <= self.ahead <= 256:
            raise ParamsError(f"ahead must be from 1 to 256 tokens, got {self.ahead}", param="ahead")
        check_pooling(self.kernel, self.pool)

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Attention(Said(self.ahead))})

    def scores(self, context: LayerContext) -> Floats:
        sums_KS = context.measured.attention_KS
        assert sums_KS is not None
        means_KS = sums_KS.astype(np.float64) / (self.ahead * context.queries.group)
        return pooled(means_KS, self.kernel, self.pool).astype(np.float32)
