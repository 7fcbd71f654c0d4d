"""Rotary embedding tables: frequencies with their scaling, and cos/sin grown on demand."""

from __future__ import annotations

import math
import threading

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


class RopeTable:
    """cos and sin per position, float32 (context, dim / 2), filled in blocks when first asked for.

    A block's values depend on nothing but its place, so a position's bits never depend on the batch. Memory that is not
    filled is not resident.
    """

    def __init__(self, rope: RopeSpec, context_length: int) -> None:
        self._frequencies = inverse_frequencies(rope)
        rows = -(-context_length // _BLOCK) * _BLOCK
        self.cos = torch.empty(rows, rope.dim // 2)
        self.sin = torch.empty(rows, rope.dim // 2)
        self._filled = 0
        self._lock = threading.Lock()

    def cover(self, position: int) -> None:
        """Make every row up to ``position`` valid."""
        if position < self._filled:
            return
        with self._lock:
            while self._filled <= position:
                block = slice(self._filled, self._filled + _BLOCK)
                angles = torch.arange(block.start, block.stop).float()[:, None] * self._frequencies
                torch.cos(angles, out=self.cos[block])
                torch.sin(angles, out=self.sin[block])
                self._filled += _BLOCK
