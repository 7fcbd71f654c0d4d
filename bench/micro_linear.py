"""The matrix product alone: ``python -m bench.micro_linear [--kind Q4_1] [--cols 576] [--rows 1 16 512]``.

Per number of rows and precision of activations: time, packed bytes read and operations per second, beside what the
machine can do, measured in the same run. Enough copies of the matrix take turns that none stays in a core's cache.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Sequence
from typing import get_args

import gguf
import numpy as np

from kvloom.arrays import Floats
from kvloom.bench.limits import measure_limits
from kvloom.config import default_threads
from kvloom.model.ops import Precision, linear
from kvloom.model.weight import Weight

_COPIES_BYTES = 64 * 2**20
_SECONDS = 0.3


def random_weight(kind: str, rows: int, cols: int) -> Weight:
    """Any codes; scales of 1."""
    block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    raw = np.random.default_rng(0).integers(0, 256, (rows * cols // block, size), dtype=np.uint8)
    raw[:, :2] = raw[:, -2:] = np.array([1.0], np.float16).view(np.uint8)
    return Weight.pack(raw, kind, (rows, cols))


def seconds(copies: Sequence[Weight], x_RC: Floats, threads: int, activations: Precision) -> float:
    """The fastest call out of as many as fit into a moment."""
    best, turns, stop = float("inf"), itertools.cycle(copies), time.perf_counter() + _SECONDS
    while (started := time.perf_counter()) < stop:
        linear(x_RC, next(turns), None, threads, activations)
        best = min(best, time.perf_counter() - started)
    return best


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.micro_linear", description="Time the matrix product.")
    parser.add_argument("--kind", nargs="+", default=["Q4_1", "Q8_0"])
    parser.add_argument("--outputs", type=int, default=1536)
    parser.add_argument("--cols", type=int, default=576)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 4, 16, 32, 64, 512])
    parser.add_argument("--threads", type=int, default=default_threads())
    options = parser.parse_args(arguments)
    limits = measure_limits(options.threads)
    print(f"limits: {limits.read_gb_s:.1f} GB/s read, {limits.sgemm_gflop_s:.0f} GFLOP/s in float32")
    print(f"{'kind':6}{'rows':>6}  {'activations':12}{'us':>10}{'GB/s':>8}{'GOP/s':>8}")
    for kind in options.kind:
        weight = random_weight(kind, options.outputs, options.cols)
        copies = [weight] + [
            random_weight(kind, options.outputs, options.cols) for _ in range(_COPIES_BYTES // weight.nbytes)
        ]
        for rows, activations in itertools.product(options.rows, get_args(Precision)):
            x_RC = np.random.default_rng(0).standard_normal((rows, options.cols), np.float32)
            took = seconds(copies, x_RC, options.threads, activations)
            rates = weight.nbytes / took / 1e9, 2 * rows * options.outputs * options.cols / took / 1e9
            print(f"{kind:6}{rows:6}  {activations:12}{took * 1e6:10.1f}{rates[0]:8.1f}{rates[1]:8.0f}", flush=True)


if __name__ == "__main__":
    main()
