"""What compactors that merge have in common: who is alike, and sums by place.

Legend: S entries, P those that stay, D head dim.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kvloom.policy.compression.base import Floats, Kept

Doubles = npt.NDArray[np.float64]
_BLOCK = 512


def gone_of(count: int, stays_P: Kept) -> Kept:
    """The entries that do not stay, ascending."""
    return np.setdiff1d(np.arange(count), stays_P)


def nearest(k_SD: Floats, others_PD: Floats) -> tuple[npt.NDArray[np.int64], Floats]:
    """For each key, which of the others it is most alike, and the cosine; blocks of keys keep memory small."""
    units_DP = _units(others_PD).T
    found = [_units(k_SD[start : start + _BLOCK]) @ units_DP for start in range(0, len(k_SD), _BLOCK)]
    partner = np.concatenate([cosines.argmax(axis=1) for cosines in found])
    return partner, np.concatenate([cosines.max(axis=1) for cosines in found])


def sums(x: Doubles, places: npt.NDArray[np.int64], count: int) -> Doubles:
    """Rows of ``x`` that have the same place, added up."""
    summed = np.zeros((count, *x.shape[1:]))
    np.add.at(summed, places, x)
    return summed


def as_stored(x: Doubles) -> Floats:
    return np.ascontiguousarray(x, np.float32)


def _units(k_SD: Floats) -> Floats:
    units_SD: Floats = k_SD / np.maximum(np.linalg.norm(k_SD, axis=-1, keepdims=True), 1e-12)
    return units_SD
