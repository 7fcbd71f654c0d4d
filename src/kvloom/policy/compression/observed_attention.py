"""Entries stay that get much attention from the queries that see them, on average: H2O's sums by how many these are.

Source: kvpress, observed attention.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from kvloom.policy.compression.base import Floats, LayerContext
from kvloom.policy.compression.needs import Attention, Need


@dataclass(frozen=True, slots=True)
class ObservedAttention:
    name: ClassVar[str] = "observed_attention"
    needs: ClassVar[frozenset[Need]] = frozenset({Attention()})

    def scores(self, context: LayerContext) -> Floats:
        sums_KS = context.measured.attention_KS
        assert sums_KS is not None
        queries_S = np.arange(sums_KS.shape[1], 0, -1)
        return (sums_KS.astype(np.float64) / (queries_S * context.queries.group)).astype(np.float32)
