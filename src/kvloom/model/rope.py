"""Rotary embedding tables: frequencies with their scaling, and cos/sin grown on demand."""

from __future__ import annotations

import math

import torch

from kvloom.model.spec import DivisorScaling, LinearScaling, Llama3Scaling, RopeSpec

_BLOCK = 1024


def inverse_frequencies(rope: RopeSpec) -> torch.Tensor:
    """Radians per position, float32 (dim / 2). Computed in float32 as models were trained with."""
    frequencies = 1.0 / (rope.base ** (torch.arange(0, rope.dim, 2, dtype=torch.int64).float() / rope.dim))
    match rope.scaling:
        case LinearScaling(factor=factor):
            return frequencies / factor
        case Llama3Scaling():
            return _llama3(frequencies, rope.scaling)
        case DivisorScaling(divisors=divisors):
            return frequencies / torch.tensor(divisors, dtype=torch.float32)
        case None:
            return frequencies


def _llama3(frequencies: torch.Tensor, scaling: Llama3Scaling) -> torch.Tensor:
    """Keep short wavelengths, divide long ones, blend between."""
    low, high, context = scaling.low_freq_factor, scaling.high_freq_factor, scaling.original_context
    wavelength = 2 * math.pi / frequencies
    keep = ((context / wavelength - low) / (high - low)).clamp(0.0, 1.0)
    return (1 - keep) * frequencies / scaling.factor + keep * frequencies


RopeAddresses = tuple[int, int, int, int]
"""Of cos and of sin, then how many positions they hold, and how many values for each."""


class RopeTable:
    """cos and sin per position, float32 (positions so far, dim / 2), grown in whole blocks when first asked for.

    A block's values depend on nothing but its place, so a position's bits never depend on the batch.
    """

    def __init__(self, rope: RopeSpec) -> None:
        self._frequencies = inverse_frequencies(rope)
        self._hold(torch.empty(0, rope.dim // 2), torch.empty(0, rope.dim // 2))

    def cover(self, position: int) -> None:
        """Make every row up to ``position`` valid."""
        if position < self.addresses[2]:
            return
        blocks = range(len(self.cos) // _BLOCK, max(position // _BLOCK + 1, 2 * len(self.cos) // _BLOCK))
        angles = [torch.arange(n * _BLOCK, (n + 1) * _BLOCK).float()[:, None] * self._frequencies for n in blocks]
        self._hold(
            torch.cat([self.cos, *(block.cos() for block in angles)]),
            torch.cat([self.sin, *(block.sin() for block in angles)]),
        )

    def _hold(self, cos: torch.Tensor, sin: torch.Tensor) -> None:
        self.cos, self.sin = cos, sin
        positions, half = cos.shape
        self.addresses: RopeAddresses = cos.data_ptr(), sin.data_ptr(), positions, half
