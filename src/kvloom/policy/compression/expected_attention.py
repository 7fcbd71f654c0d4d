"""Entries stay that can expect much attention of queries to come, if these are like those of the context.

Source: Expected Attention (Devoto et al. 2025, arXiv 2510.00636) as in kvpress: queries are taken for normal, with the
mean and the covariance of those of the context before rotation, without the first few; both are turned by the mean of
the next positions' rotations. exp(q.k / sqrt(D)) of such a query has the mean exp(mean.k / sqrt(D) + k' cov k / 2D).
The first few entries stay, and take no part in the softmax.
We differ: the scale is the model's, where it is not 1 / sqrt(D); statistics are of queries themselves, not of hidden
states, so that a norm of queries does no harm; and of queries spread over the context, not of all of it, so that a
context that is cached need not be computed as a whole.

Legend: R queries, S entries, H query heads, K KV heads, G query heads by KV head, D head dim, F pairs of dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from kvloom.errors import ParamsError
from kvloom.policy.compression.algebra import product, products
from kvloom.policy.compression.base import REQUIRED, Floats, LayerContext
from kvloom.policy.compression.needs import Cached, Need, Queries, Spread
from kvloom.policy.compression.rotation import Doubles, rotate, rotation

_RANGES = {"sampled": (16, 1024), "sinks": (0, 2**20), "ahead": (1, 2**16), "epsilon": (0.0, 1e6)}


@dataclass(frozen=True, slots=True)
class ExpectedAttention:
    """``sampled``: about how many queries of the context are looked at, 16 to 1024. ``sinks``: how many first ones are
    not; their entries stay. ``ahead``: how many positions to come are meant. ``epsilon``: added to an entry's share
    before its value's norm weighs it.
    """

    name: ClassVar[str] = "expected_attention"
    sampled: int = 512
    sinks: int = 4
    ahead: int = 512
    epsilon: float = 0.0

    def __post_init__(self) -> None:
        for name, (least, most) in _RANGES.items():
            if not least <= getattr(self, name) <= most:
                raise ParamsError(f"{name} must be from {least} to {most}, got {getattr(self, name)}", param=name)

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Cached.KEYS, Cached.VALUES, Queries(Spread(self.sampled, self.sinks))})

    def scores(self, context: LayerContext) -> Floats:
        q_RHD, positions_R = context.measured.q_RHD, context.measured.positions_R
        assert q_RHD is not None
        assert positions_R is not None
        others_S = context.positions_S >= self.sinks
        if not len(q_RHD) or not others_S.any():  # nothing but sinks
            return np.zeros(context.shape, np.float32)
        stop = int(context.positions_S[-1]) + 1
        seen = statistics_of(q_RHD, positions_R, context.queries.turn_F, stop, self.ahead, context.threads)
        scores_KS = np.full(context.shape, REQUIRED, np.float32)
        scores_KS[:, others_S] = expected_attention(
            seen,
            context.k_SKD[others_S],
            context.v_SKD[others_S],
            context.queries.scale,
            self.epsilon,
            context.threads,
        )
        return scores_KS


@dataclass(frozen=True, slots=True, eq=False)
class QueryStatistics:
    """Of queries to come: ``mean_HD``, ``cov_HDD``."""

    mean_HD: Doubles
    cov_HDD: Doubles


def statistics_of(
    q_RHD: Floats, positions_R: npt.NDArray[np.int64], turn_F: Doubles, first: int, count: int, threads: int = 1
) -> QueryStatistics:
    """From rotated queries of the context: what is expected at the ``count`` positions from ``first`` on.

    ``turn_F``: the angle by position of each pair of dimensions (n, n + F); dimensions from 2F on are not rotated.
    """
    plain_RHD = rotate(q_RHD.astype(np.float64), -positions_R, turn_F)
    mean_HD = plain_RHD.mean(axis=0)
    from_mean_HRD = (plain_RHD - mean_HD).transpose(1, 0, 2)
    cov_HDD = products(from_mean_HRD.transpose(0, 2, 1), from_mean_HRD, threads) / len(q_RHD)
    angle_RF = np.arange(first, first + count)[:, None] * turn_F
    turn_DD = rotation(np.cos(angle_RF).mean(axis=0), np.sin(angle_RF).mean(axis=0), q_RHD.shape[-1])
    return QueryStatistics(mean_HD @ turn_DD, turn_DD.T @ cov_HDD @ turn_DD)


def expected_attention(
    seen: QueryStatistics, k_SKD: Floats, v_SKD: Floats, scale: float, epsilon: float, threads: int = 1
) -> Floats:
    """(K, S): the mean over a group's query heads of the softmax, plus epsilon, times the value's norm."""
    entries, kv_heads, dim = k_SKD.shape
    k_KSD = np.ascontiguousarray(k_SKD.transpose(1, 0, 2), np.float64)
    mean_KGD = seen.mean_HD.reshape(kv_heads, -1, dim)
    cov_KGDD = seen.cov_HDD.reshape(kv_heads, -1, dim, dim)
    logits_KGS = products(mean_KGD, k_KSD.transpose(0, 2, 1), threads) * scale
    for logits_GS, k_SD, cov_GDD in zip(logits_KGS, k_KSD, cov_KGDD, strict=True):
        turned_SGD = product(k_SD, cov_GDD.transpose(1, 0, 2).reshape(dim, -1), threads).reshape(entries, -1, dim)
        logits_GS += np.einsum("sgd,sd->gs", turned_SGD, k_SD) * (scale**2 / 2)
    if entries:
        logits_KGS -= logits_KGS.max(axis=-1, keepdims=True)
    shares_KGS = np.exp(logits_KGS)
    shares_KGS /= shares_KGS.sum(axis=-1, keepdims=True)
    norms_KS = np.linalg.norm(v_SKD.astype(np.float64), axis=-1).T
    scores_KS: Floats = ((shares_KGS.mean(axis=1) + epsilon) * norms_KS).astype(np.float32)
    return scores_KS
