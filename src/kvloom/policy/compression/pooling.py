"""Neighbours share what attention says of each: words that matter do so together."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kvloom.errors import ParamsError

POOLS = ("mean", "max")


def check_pooling(kernel: int, pool: str) -> None:
    """Raises ParamsError."""
    if kernel < 1 or kernel % 2 == 0:
        raise ParamsError(f"kernel must be an odd number of entries, got {kernel}", param="kernel")
    if pool not in POOLS:
        raise ParamsError(f"pool must be one of {', '.join(POOLS)}, got `{pool}`", param="pool")


def pooled(x_KS: npt.NDArray[np.float64], kernel: int, pool: str) -> npt.NDArray[np.float64]:
    """Of each entry and its neighbours, ``kernel`` all in all, the ``mean``, outside of the context being zero, or the
    ``max``.
    """
    if not x_KS.size:
        return x_KS
    outside = 0.0 if pool == "mean" else -np.inf
    padded_KS = np.pad(x_KS, ((0, 0), (kernel // 2, kernel // 2)), constant_values=outside)
    near_KSN = np.lib.stride_tricks.sliding_window_view(padded_KS, kernel, axis=1)
    pooled_KS: npt.NDArray[np.float64] = near_KSN.mean(axis=-1) if pool == "mean" else near_KSN.max(axis=-1)
    return pooled_KS
