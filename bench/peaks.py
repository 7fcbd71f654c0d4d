"""What this processor can do at best: memory read, multiply-adds of floats, products of bytes, bfloat16 products.

The last is torch's product of matrices, which uses AMX where there is one; all others are loops of the kernels' own
instruction sets (``csrc/peaks.h``). A limit is what was possible once: the best of half a second.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from kvloom import _kernels
from kvloom.arrays import Bytes
from kvloom.kernels import isas

_SECONDS = 0.5
_TURNS = 400_000
_PIECE_BYTES = 2**20
_SQUARE = 1536


@dataclass(frozen=True, slots=True)
class Peaks:
    """Of all threads together. One multiply-add is two operations."""

    read_gb_s: float
    bytes_gop_s: float
    """Dot products of bytes in vectors."""
    tiles_gop_s: float | None
    """Products of bytes in tiles; None: the processor has none."""
    floats_gflop_s: float
    bfloat16_gflop_s: float

    def __str__(self) -> str:
        tiles = "" if self.tiles_gop_s is None else f"{self.tiles_gop_s:.0f} in AMX tiles of bytes, "
        return (
            f"{self.read_gb_s:.1f} GB/s read, {self.bytes_gop_s:.0f} GOP/s in dot products of bytes, {tiles}"
            f"{self.floats_gflop_s:.0f} GFLOP/s in float32, {self.bfloat16_gflop_s:.0f} in torch's bfloat16 products"
        )


def measure_peaks(memory: Bytes, threads: int) -> Peaks:
    """``memory`` is what is read: more than any cache holds, and written before."""
    isa = next(each for each in isas() if each != "amx")
    address, count = memory.ctypes.data, memory.size // 64 * 64
    assert address % 64 == 0, "reads of whole cache lines"
    read_s = fastest(lambda: _kernels.peak_read(address, count, _PIECE_BYTES, threads, isa))
    return Peaks(
        read_gb_s=count / read_s / 1e9,
        bytes_gop_s=_rate(_kernels.peak_multiply_bytes, threads, isa),
        tiles_gop_s=_rate(_kernels.peak_multiply_bytes, threads, "amx") if "amx" in isas() else None,
        floats_gflop_s=_rate(_kernels.peak_multiply_floats, threads, isa),
        bfloat16_gflop_s=_bfloat16_products(threads),
    )


def fastest(work: Callable[[], object], seconds: float = _SECONDS) -> float:
    """The fastest call, in seconds, out of as many as fit in."""
    best, stop = float("inf"), time.perf_counter() + seconds
    while (started := time.perf_counter()) < stop:
        work()
        best = min(best, time.perf_counter() - started)
    return best


def _rate(multiply: Callable[[int, int, str], int], threads: int, isa: str) -> float:
    per_turn = multiply(1, threads, isa)
    return per_turn * _TURNS * threads / fastest(lambda: multiply(_TURNS, threads, isa)) / 1e9


def _bfloat16_products(threads: int) -> float:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        left, right = (torch.from_numpy(np.ones((_SQUARE, _SQUARE), np.float32)).bfloat16() for _ in range(2))
        return 2 * _SQUARE**3 / fastest(lambda: left @ right) / 1e9
    finally:
        torch.set_num_threads(before)
