"""Rotary embedding of vectors at positions, by plain means: for scorers that look at keys or queries before it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]


def rotate(x_RXD: Doubles, positions_R: npt.NDArray[np.int64], turn_F: Doubles) -> Doubles:
    """Turn pairs (n, n + F) by position times ``turn_F``; dimensions from 2F on stay. Negative positions turn back."""
    pairs = len(turn_F)
    angle_R1F = positions_R[:, None, None] * turn_F
    cos, sin = np.cos(angle_R1F), np.sin(angle_R1F)
    a, b, rest = x_RXD[..., :pairs], x_RXD[..., pairs : 2 * pairs], x_RXD[..., 2 * pairs :]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin, rest], axis=-1)


def rotation(cos_F: Doubles, sin_F: Doubles, dim: int) -> Doubles:
    """The matrix (dim, dim) that turns a row vector; for means of cos and sin, the mean of such matrices."""
    pairs = len(cos_F)
    turn_DD = np.eye(dim)
    first = np.arange(pairs)
    turn_DD[first, first] = turn_DD[first + pairs, first + pairs] = cos_F
    turn_DD[first, first + pairs], turn_DD[first + pairs, first] = sin_F, -sin_F
    return turn_DD
