"""Entries stay to which the last query of the context attends, the mean over all heads: every KV head keeps the same.

Source: TOVA (Oren et al. 2024, arXiv 2401.06104). As in kvpress, the last entry stays, and one query decides on all
that goes; the paper lets one entry go with every token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from kvloom.policy.compression.base import REQUIRED, Floats, LayerContext
from kvloom.policy.compression.needs import Attention, Last, Need


@dataclass(frozen=True, slots=True)
class Tova:
    name: ClassVar[str] = "tova"
    needs: ClassVar[frozenset[Need]] = frozenset({Attention(Last(1))})

    def scores(self, context: LayerContext) -> Floats:
        sums_KS = context.measured.attention_KS
        assert sums_KS is not None
        means_S = sums_KS.astype(np.float64).mean(axis=0) / context.queries.group
        scores_KS = np.broadcast_to(means_S, sums_KS.shape).astype(np.float32)
        scores_KS[:, -1:] = REQUIRED
        return scores_KS
