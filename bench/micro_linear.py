"""The matrix product alone: ``python -m bench.micro_linear [--shape head] [--kind Q4_K] [--rows 1 16 512]``.

By default the products of a Llama of 1.2B (2,048 wide, MLP 8,192, 32 / 8 heads of 64), for one row and for 512. With
one row the rate of packed bytes is given as a share of the measured read bandwidth, with many the rate of operations as
a share of the measured rates of dot products and of AMX tiles (``bench.peaks``). ``--isa amx avx512vnni`` compares
instruction sets. Copies of the matrix take turns, as many as fill the
memory that the bandwidth is measured on: more than a core's caches hold, and more than most processors' last one.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import gguf
import numpy as np

from bench.peaks import Peaks, fastest, measure_peaks
from kvloom import _kernels
from kvloom.arrays import Bytes, Floats
from kvloom.config import default_threads, processor
from kvloom.kernels import choose_isa, isas
from kvloom.model.ops import PLANES, Precision
from kvloom.model.weight import Part, Weight
from kvloom.model.weight_memory import WeightMemory

SHAPES = {"qkv": (3072, 2048), "o": (2048, 2048), "gate+up": (16384, 2048), "down": (2048, 8192), "head": (49152, 2048)}
KINDS = ("Q4_K", "Q4_0", "Q6_K", "Q8_0")
_SECONDS = 0.4
_MANY_ROWS = 64
"""From here on arithmetic is the limit."""


@dataclass(frozen=True, slots=True)
class Timed:
    """One product: ``rows`` of ``cols`` times a matrix of ``packed_bytes``."""

    seconds: float
    rows: int
    outputs: int
    cols: int
    packed_bytes: int

    def shares(self, peaks: Peaks) -> str:
        """Of the limits that apply to this number of rows."""
        if self.rows < _MANY_ROWS:
            return f"{self.gb_s / peaks.read_gb_s:.0%} of reading"
        of_dots = f"{self.gop_s / peaks.bytes_gop_s:.0%} of dot products"
        return of_dots if peaks.tiles_gop_s is None else f"{of_dots}, {self.gop_s / peaks.tiles_gop_s:.0%} of tiles"

    @property
    def gb_s(self) -> float:
        return self.packed_bytes / self.seconds / 1e9

    @property
    def gop_s(self) -> float:
        return 2 * self.rows * self.outputs * self.cols / self.seconds / 1e9


def random_weight(kind: str, rows: int, cols: int, threads: int) -> Weight:
    """Any codes; scales of 1."""
    block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    raw = np.random.default_rng(0).integers(0, 256, (rows * cols // block, size), dtype=np.uint8)
    raw[:, :2] = raw[:, -2:] = np.array([1.0], np.float16).view(np.uint8)
    return Weight.pack(raw, kind, (rows, cols), threads=threads)


def copies_in(memory: Bytes, weight: Weight) -> list[Weight]:
    """As many as there is room for, one behind the other."""
    (part,) = weight.parts
    room = -(-part.packed.nbytes // 64) * 64
    copies = []
    for start in range(0, memory.size - room + 1, room):
        place = memory[start : start + part.packed.nbytes]
        place[:] = part.packed
        copies.append(Weight([Part(part.kind, part.rows, place)], weight.cols))
    return copies


def timed(copies: Sequence[Weight], rows: int, threads: int, activations: Precision, isa: str = "") -> Timed:
    """The fastest pass over all copies where memory is the limit, else the fastest product.

    Calls the kernels as a model's step does: without ``ops.linear``, whose Python takes several microseconds.
    """
    first = copies[0]
    x_RC: Floats = np.random.default_rng(0).standard_normal((rows, first.cols), np.float32)
    out_RO = np.empty((rows, first.rows), np.float32)
    x, out, planes = x_RC.ctypes.data, out_RO.ctypes.data, PLANES[activations]

    def run(weights: Sequence[Weight]) -> None:
        for weight in weights:
            table = weight.table.ctypes.data
            _kernels.linear(x, table, 0, out, rows, first.cols, first.rows, 1, threads, planes, isa)

    if rows < _MANY_ROWS:
        seconds = fastest(lambda: run(copies), _SECONDS) / len(copies)
    else:
        turns = itertools.cycle(copies)
        seconds = fastest(lambda: run([next(turns)]), _SECONDS)
    return Timed(seconds, rows, first.rows, first.cols, first.nbytes)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.micro_linear", description="Time the matrix product.")
    parser.add_argument("--kind", nargs="+", default=list(KINDS))
    parser.add_argument("--shape", nargs="+", default=list(SHAPES), help=f"of: {', '.join(SHAPES)}; or OUTPUTSxCOLS")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 512])
    parser.add_argument("--activations", nargs="+", default=["int8"], choices=get_args(Precision))
    parser.add_argument("--isa", nargs="+", default=[choose_isa()], choices=isas())
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--memory-mib", type=int, default=1024, help="how much the copies of a matrix fill")
    options = parser.parse_args(arguments)
    memory = WeightMemory().take(options.memory_mib * 2**20)
    memory[:] = 1
    peaks = measure_peaks(memory, options.threads)
    print(f"{processor()}, {options.threads} threads: {peaks}\n")
    print("| weights | product | rows | activations | isa | us | GB/s | GOP/s | of the limit |")
    print("|---|---|---|---|---|---|---|---|---|")
    for kind, name in itertools.product(options.kind, options.shape):
        outputs, cols = SHAPES[name] if name in SHAPES else map(int, name.split("x"))
        copies = copies_in(memory, random_weight(kind, outputs, cols, options.threads))
        for rows, activations, isa in itertools.product(options.rows, options.activations, options.isa):
            found = timed(copies, rows, options.threads, activations, isa)
            print(
                f"| {kind} | {name} {outputs} x {cols} | {rows} | {activations} | {isa} | {found.seconds * 1e6:.1f} "
                f"| {found.gb_s:.1f} | {found.gop_s:.0f} | {found.shares(peaks)} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
