"""Rotary embedding tables: frequencies with their scaling, and cos/sin grown on demand."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from kvloom.arrays import Floats, contiguous_address
from kvloom.model.spec import DivisorScaling, LinearScaling, Llama3Scaling, RopeSpec

_BLOCK = 1024
_NONE, _ALL = np.float32(0), np.float32(1)


def inverse_frequencies(rope: RopeSpec) -> Floats:
    """Radians per position, float32 (dim / 2). Computed in float32 as models were trained with."""
    exponents = np.arange(0, rope.dim, 2).astype(np.float32) / np.float32(rope.dim)
    frequencies = np.float32(1) / _rounded(np.float64(rope.base) ** exponents.astype(np.float64))
    match rope.scaling:
        case LinearScaling(factor=factor):
            return frequencies / np.float32(factor)
        case Llama3Scaling():
            return _llama3(frequencies, rope.scaling)
        case DivisorScaling(divisors=divisors):
            each: Floats = np.array(divisors, np.float32)
            return frequencies / each
        case None:
            return frequencies


def _rounded(exact: npt.NDArray[np.float64]) -> Floats:
    """To float32. Functions are evaluated in float64 and rounded once, for the same bits on every machine and numpy."""
    rounded: Floats = exact.astype(np.float32)
    return rounded


def _llama3(frequencies: Floats, scaling: Llama3Scaling) -> Floats:
    """Keep short wavelengths, divide long ones, blend between."""
    low, high, context = scaling.low_freq_factor, scaling.high_freq_factor, scaling.original_context
    wavelength = np.float32(2 * math.pi) / frequencies
    keep: Floats = np.clip((np.float32(context) / wavelength - np.float32(low)) / np.float32(high - low), _NONE, _ALL)
    blended: Floats = (_ALL - keep) * frequencies / np.float32(scaling.factor) + keep * frequencies
    return blended


RopeAddresses = tuple[int, int, int, int]
"""Addresses of cos and sin, then the number of positions, and of values per position."""


class RopeTable:
    """cos and sin per position, float32 (positions so far, dim / 2), grown in whole blocks when first asked for.

    A block's values depend on nothing but its place, so a position's bits never depend on the batch.
    """

    def __init__(self, rope: RopeSpec) -> None:
        self._frequencies = inverse_frequencies(rope)
        self._hold(np.empty((0, rope.dim // 2), np.float32), np.empty((0, rope.dim // 2), np.float32))

    def cover(self, position: int) -> None:
        """Make every row up to ``position`` valid."""
        if position < self.addresses[2]:
            return
        blocks = range(len(self.cos) // _BLOCK, max(position // _BLOCK + 1, 2 * len(self.cos) // _BLOCK))
        starts = [n * _BLOCK for n in blocks]
        angles = [np.arange(n, n + _BLOCK, dtype=np.float32)[:, None] * self._frequencies for n in starts]
        self._hold(
            np.concatenate([self.cos, *(_rounded(np.cos(block.astype(np.float64))) for block in angles)]),
            np.concatenate([self.sin, *(_rounded(np.sin(block.astype(np.float64))) for block in angles)]),
        )

    @property
    def angles(self) -> npt.NDArray[np.float64]:
        """Radians per position, (dim / 2,)."""
        return self._frequencies.astype(np.float64)

    def turns(self, shifts_U: npt.NDArray[np.int32]) -> tuple[Floats, Floats]:
        """cos and sin, float32 (U, dim / 2), that turn a vector from its position to the one ``shifts_U`` below."""
        angles = -shifts_U.astype(np.float32)[:, None] * self._frequencies
        exact = angles.astype(np.float64)
        return _rounded(np.cos(exact)), _rounded(np.sin(exact))

    def _hold(self, cos: Floats, sin: Floats) -> None:
        self.cos, self.sin = cos, sin
        positions, half = cos.shape
        self.addresses: RopeAddresses = contiguous_address(cos), contiguous_address(sin), positions, half
