"""Turning keys to positions and back: RoPE outside of a model, for keys that leave or enter pages."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kvloom.arrays import Floats


def turned(k_HnD: Floats, angles: Sequence[float]) -> Floats:
    """Unrotated keys, turned to positions 0 to n - 1."""
    return _turned(k_HnD, angles, 1)


def turned_back(k_HnD: Floats, angles: Sequence[float]) -> Floats:
    """The inverse of ``turned``, within 2^-22 of a key's norm."""
    return _turned(k_HnD, angles, -1)


def _turned(k_HnD: Floats, angles: Sequence[float], sign: int) -> Floats:
    """Computed in float64 with angles rounded as ``model.rope`` rounds them, then rounded once."""
    pairs, n = len(angles), k_HnD.shape[1]
    out_HnD = k_HnD.astype(np.float64)
    if pairs:
        turns_nF = np.arange(n, dtype=np.float32)[:, None] * np.array(angles, np.float32)
        cos_nF, sin_nF = np.cos(turns_nF.astype(np.float64)), sign * np.sin(turns_nF.astype(np.float64))
        a, b = out_HnD[..., :pairs].copy(), out_HnD[..., pairs : 2 * pairs].copy()
        out_HnD[..., :pairs] = a * cos_nF - b * sin_nF
        out_HnD[..., pairs : 2 * pairs] = b * cos_nF + a * sin_nF
    return out_HnD.astype(np.float32)
