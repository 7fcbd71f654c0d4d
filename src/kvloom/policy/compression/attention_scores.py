"""Scores from how much attention entries were seen to get: sums over queries, never a matrix.

``sums_KS`` are probabilities added up over queries and over the query heads of each KV head's group, as a probe by KV
head gives them: an entry that a query does not see gets nothing from it. Legend: S entries, K KV heads.
"""

from __future__ import annotations

import enum

import numpy as np
import numpy.typing as npt

from kvloom.policy.compression.base import REQUIRED, Floats


class Pool(enum.Enum):
    """How an entry's neighbours count: in the mean, which is zero outside the context, or in the highest."""

    MEAN = "mean"
    MAX = "max"


def snapkv(sums_KS: Floats, window: int, group: int, kernel: int, pool: Pool) -> Floats:
    """Mean attention of the last ``window`` queries of the context to what is before them, pooled; their own stay.

    Source: SnapKV (Li et al. 2024, arXiv 2404.14469), group mean and mean pooling as in kvpress (window 64, kernel 5).
    We differ: maxima are taken of the group's mean, not by query head. A context that is no longer than the window is
    scored as a whole. ``kernel`` is odd.

    >>> snapkv(np.array([[1, 4, 1, 1, 5]], np.float32), window=1, group=1, kernel=3, pool=Pool.MAX).tolist()
    [[4.0, 4.0, 4.0, 1.0, inf]]
    """
    count = sums_KS.shape[1]
    before = count - window if count > window else count
    means_KS = sums_KS[:, :before].astype(np.float64) / (min(window, count) * group)
    scores_KS = np.full(sums_KS.shape, REQUIRED, np.float32)
    scores_KS[:, :before] = _pooled(means_KS, kernel, pool)
    return scores_KS


def tova(sums_KS: Floats, group: int) -> Floats:
    """Attention of the last query of the context, the mean over all heads of the layer: every KV head keeps the same.

    Source: TOVA (Oren et al. 2024, arXiv 2401.06104). As in kvpress, the last entry stays.
    """
    means_S = sums_KS.astype(np.float64).mean(axis=0) / group
    scores_KS = np.broadcast_to(means_S, sums_KS.shape).astype(np.float32)
    scores_KS[:, -1:] = REQUIRED
    return scores_KS


def h2o(sums_KS: Floats) -> Floats:
    """All attention that an entry has got from the context's own queries, which favours the early ones.

    Source: H2O (Zhang et al. 2023, arXiv 2306.14048). Its recent half of the budget is what ``Protect`` is for.
    """
    return sums_KS.astype(np.float32, copy=False)


def observed(sums_KS: Floats, group: int) -> Floats:
    """Mean attention of the queries that see an entry, all of the context's from its own on.

    Source: kvpress, observed attention; the sums of H2O by how many there are.
    """
    queries_S = np.arange(sums_KS.shape[1], 0, -1)
    return (sums_KS.astype(np.float64) / (queries_S * group)).astype(np.float32)


def _pooled(x_KS: npt.NDArray[np.float64], kernel: int, pool: Pool) -> npt.NDArray[np.float64]:
    assert kernel % 2, kernel
    if not x_KS.size:
        return x_KS
    outside = 0.0 if pool is Pool.MEAN else -np.inf
    padded_KS = np.pad(x_KS, ((0, 0), (kernel // 2, kernel // 2)), constant_values=outside)
    near_KSN = np.lib.stride_tricks.sliding_window_view(padded_KS, kernel, axis=1)
    pooled_KS: npt.NDArray[np.float64] = near_KSN.mean(axis=-1) if pool is Pool.MEAN else near_KSN.max(axis=-1)
    return pooled_KS
