"""A machine's peak rates, and what a model needs of them: ``python -m kvloom.bench.limits THREADS`` measures."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from kvloom.model.spec import ModelSpec

_READ_BYTES = 512 * 2**20
_SQUARE = 1536


@dataclass(frozen=True, slots=True)
class Limits:
    """Memory read bandwidth, and the rate of float32 matrix products, with the threads given."""

    read_gb_s: float
    sgemm_gflop_s: float


def measure_limits(threads: int, repeats: int = 5) -> Limits:
    """The best of ``repeats``: a limit is what was possible once. Leaves torch's thread count as it was."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        block = torch.ones(_READ_BYTES // 4)
        left, right = torch.rand(_SQUARE, _SQUARE), torch.rand(_SQUARE, _SQUARE)
        read = _fastest(lambda: block.sum(), repeats)
        product = _fastest(lambda: left @ right, repeats)
    finally:
        torch.set_num_threads(before)
    return Limits(_READ_BYTES / read / 1e9, 2 * _SQUARE**3 / product / 1e9)


def prefill_flop(spec: ModelSpec, length: int) -> int:
    """Floating-point operations that a prompt needs: the linear layers, and attention over what each row sees."""
    attention_width = spec.heads * spec.head_dim
    projections = 2 * attention_width + 2 * spec.kv_heads * spec.head_dim + 3 * spec.ffn_width
    seen = sum(_seen(length, window) for window in spec.windows)
    return 2 * spec.num_layers * spec.width * projections * length + 4 * attention_width * seen


def _seen(length: int, window: int | None) -> int:
    """Positions that the rows of a prompt see, added up."""
    full = min(length, window or length)
    return full * (full + 1) // 2 + (length - full) * full


def _fastest(work: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times[1:])


if __name__ == "__main__":
    print(json.dumps(dataclasses.asdict(measure_limits(int(sys.argv[1])))))
