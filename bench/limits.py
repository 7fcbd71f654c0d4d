"""What the machine can do at best, measured in the same run as the engines."""

from __future__ import annotations

import platform
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from kvloom.model.spec import ModelSpec

_READ_BYTES = 512 * 2**20
_SQUARE = 1536


@dataclass(frozen=True, slots=True)
class Limits:
    """Memory read bandwidth and float32 matrix product rate, with the threads given."""

    read_gb_s: float
    sgemm_gflop_s: float


def measure_limits(threads: int, repeats: int = 5) -> Limits:
    """The best of ``repeats``: a limit is what was possible once."""
    torch.set_num_threads(threads)
    block = torch.ones(_READ_BYTES // 4)
    left, right = torch.rand(_SQUARE, _SQUARE), torch.rand(_SQUARE, _SQUARE)
    read = _fastest(lambda: block.sum(), repeats)
    product = _fastest(lambda: left @ right, repeats)
    return Limits(_READ_BYTES / read / 1e9, 2 * _SQUARE**3 / product / 1e9)


def prefill_flop(spec: ModelSpec, length: int) -> int:
    """Floating-point operations that a prompt needs: the linear layers, and attention over what each row sees."""
    attention_width = spec.heads * spec.head_dim
    projections = 2 * attention_width + 2 * spec.kv_heads * spec.head_dim + 3 * spec.ffn_width
    seen = sum(sum(min(row + 1, window or length) for row in range(length)) for window in spec.windows)
    return 2 * spec.num_layers * spec.width * projections * length + 4 * attention_width * seen


def _fastest(work: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times[1:])


def processor() -> str:
    """The processor's name."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()


def slug(text: str) -> str:
    """For a folder name.

    >>> slug("AMD EPYC 7B13 (2 cores)")
    'amd-epyc-7b13-2-cores'
    """
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
