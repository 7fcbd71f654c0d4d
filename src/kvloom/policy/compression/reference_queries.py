"""Queries that stand for those to come: compactors make what is stored do for them what the whole context did."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kvloom.policy.compression.base import Floats, LayerContext

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class References:
    """``q_KND``, by KV head: queries, multiplied by the attention's scale, of all query heads of its group. ``log_N``:
    the logarithm of how much each counts. They add up to 1.
    """

    q_KND: Floats
    log_N: Doubles

    @staticmethod
    def of(context: LayerContext, fading: float = 1.0) -> References:
        """``fading``: how much less a row counts than the one after it."""
        q_RHD = context.measured.q_RHD
        assert q_RHD is not None
        rows, query_heads, dim = q_RHD.shape
        heads = context.shape[0]
        group = query_heads // heads
        q_KRGD = q_RHD.reshape(rows, heads, group, dim).transpose(1, 0, 2, 3)
        q_KND = q_KRGD.reshape(heads, rows * group, dim) * np.float32(context.queries.scale)
        counts_N = np.repeat(fading ** np.arange(rows - 1, -1, -1.0), group)
        return References(q_KND, np.log(counts_N / counts_N.sum()) if rows else counts_N)

    def __len__(self) -> int:
        return len(self.log_N)
