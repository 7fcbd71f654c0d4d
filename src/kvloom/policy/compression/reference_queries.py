"""Queries that stand for those to come: compactors make what is stored do for them what the whole context did."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kvloom.policy.compression.base import Floats, LayerContext

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class References:
    """Of one KV head: ``q_ND``, multiplied by the attention's scale, of all query heads of its group; ``log_N``: the
    logarithm of how much each counts. They add up to 1.
    """

    q_ND: Doubles
    log_N: Doubles

    def logits(self, k_SD: Floats | Doubles) -> Doubles:
        """(N, S)."""
        logits_NS: Doubles = self.q_ND @ k_SD.T.astype(np.float64)
        return logits_NS

    def weights(self, k_SD: Floats | Doubles) -> Doubles:
        """(S,): the logarithm of what an entry weighs before softmax, on average."""
        logits_NS = self.logits(k_SD) + self.log_N[:, None]
        top_S = logits_NS.max(axis=0)
        weights_S: Doubles = top_S + np.log(np.exp(logits_NS - top_S).sum(axis=0))
        return weights_S


def references_of(context: LayerContext, fading: float = 1.0) -> list[References]:
    """By KV head. ``fading``: how much less a row counts than the one after it."""
    q_RHD = context.measured.q_RHD
    assert q_RHD is not None
    rows, query_heads, dim = q_RHD.shape
    heads = context.shape[0]
    group = query_heads // heads
    q_KRGD = q_RHD.reshape(rows, heads, group, dim).transpose(1, 0, 2, 3)
    q_KND = q_KRGD.reshape(heads, rows * group, dim) * context.queries.scale
    counts_N = np.repeat(fading ** np.arange(rows - 1, -1, -1.0), group)
    log_N = np.log(counts_N / counts_N.sum()) if rows else counts_N
    return [References(np.ascontiguousarray(q_ND, np.float64), log_N) for q_ND in q_KND]
