"""Attention that an entry can expect of queries to come, if they are like those of the context.

Source: Expected Attention (Devoto et al. 2025, arXiv 2510.00636) as in kvpress: queries are taken for normal, with the
mean and the covariance of those of the context before rotation, without the first few; both are turned by the mean of
the next positions' rotations. exp(q.k / sqrt(D)) of such a query has the mean exp(mean.k / sqrt(D) + k' cov k / 2D).
We differ: statistics are of queries themselves, not of hidden states, so that a norm of queries does no harm.

Legend: R queries, S entries, H query heads, K KV heads, G query heads by KV head, D head dim, F pairs of dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kvloom.policy.compression.base import Floats

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class QueryStatistics:
    """Of queries to come: ``mean_HD``, ``cov_HDD``."""

    mean_HD: Doubles
    cov_HDD: Doubles


def statistics_of(
    q_RHD: Floats, positions_R: npt.NDArray[np.int64], turn_F: Doubles, first: int, count: int
) -> QueryStatistics:
    """From rotated queries of the context: what is expected at the ``count`` positions from ``first`` on.

    ``turn_F``: the angle by position of each pair of dimensions (n, n + F); dimensions from 2F on are not rotated.
    """
    plain_RHD = rotate(q_RHD.astype(np.float64), -positions_R, turn_F)
    mean_HD = plain_RHD.mean(axis=0)
    from_mean_RHD = plain_RHD - mean_HD
    cov_HDD = np.einsum("rhd,rhe->hde", from_mean_RHD, from_mean_RHD) / len(q_RHD)
    dim = q_RHD.shape[-1]
    basis_RDD = np.broadcast_to(np.eye(dim), (count, dim, dim))
    turn_DD = rotate(basis_RDD, np.arange(first, first + count), turn_F).mean(axis=0)  # rows: where a basis goes
    return QueryStatistics(mean_HD @ turn_DD, turn_DD.T @ cov_HDD @ turn_DD)


def expected_attention(seen: QueryStatistics, k_SKD: Floats, v_SKD: Floats, epsilon: float) -> Floats:
    """(K, S): the mean over a group's query heads of the softmax, plus epsilon, times the value's norm."""
    entries, kv_heads, dim = k_SKD.shape
    k_KSD = k_SKD.transpose(1, 0, 2).astype(np.float64)
    mean_KGD = seen.mean_HD.reshape(kv_heads, -1, dim)
    cov_KGDD = seen.cov_HDD.reshape(kv_heads, -1, dim, dim)
    logits_KGS = np.einsum("kgd,ksd->kgs", mean_KGD, k_KSD) / np.sqrt(dim)
    logits_KGS += np.einsum("ksd,kgsd->kgs", k_KSD, k_KSD[:, None] @ cov_KGDD) / (2 * dim)
    if entries:
        logits_KGS -= logits_KGS.max(axis=-1, keepdims=True)
    shares_KGS = np.exp(logits_KGS)
    shares_KGS /= shares_KGS.sum(axis=-1, keepdims=True)
    norms_KS = np.linalg.norm(v_SKD.astype(np.float64), axis=-1).T
    scores_KS: Floats = ((shares_KGS.mean(axis=1) + epsilon) * norms_KS).astype(np.float32)
    return scores_KS


def rotate(x_RXD: Doubles, positions_R: npt.NDArray[np.int64], turn_F: Doubles) -> Doubles:
    """Pairs (n, n + F) by position times ``turn_F``."""
    pairs = len(turn_F)
    angle_R1F = positions_R[:, None, None] * turn_F
    cos, sin = np.cos(angle_R1F), np.sin(angle_R1F)
    a, b, rest = x_RXD[..., :pairs], x_RXD[..., pairs : 2 * pairs], x_RXD[..., 2 * pairs :]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin, rest], axis=-1)
