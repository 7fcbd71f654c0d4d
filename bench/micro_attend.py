"""Time attention alone, without a model: decodes, short chunks, prefills and shared prefixes.

    python -m bench.micro_attend [--threads 2] [--repeats 5] [--only decode]

Every step runs the layers of SmolLM2-135M (30 layers, 9 query heads on 3 KV heads of 64) or of Gemma 3 270M (18 layers,
4 query heads on 1 KV head of 256, window 512 on 15 of them) over pages of random numbers in the default format. GB/s
counts the KV bytes that the rows have to read, shared pages once; GFLOP/s counts the products that the rows see,
nothing masked. The limits are measured before every step, since a shared machine is not the same one a second later:
percentages are of the best of those.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from kvloom.attend.builder import Rows, build_plan
from kvloom.attend.cpu import CpuAttend
from kvloom.attend.plan import LayerPlan, Plan
from kvloom.bench.limits import Limits
from kvloom.config import DEFAULT_KV_DTYPE, KvDtype, processor
from kvloom.memory.arena import Arena
from kvloom.memory.format import PAGE_TOKENS, PageFormat
from kvloom.memory.table import PageTable
from kvloom.segment import Span, SpanSet


@dataclass(frozen=True, slots=True)
class Shape:
    """The attention layers of a model. ``windows``: one entry per layer group, with how many layers it has."""

    name: str
    heads: int
    kv_heads: int
    dim: int
    windows: tuple[tuple[int | None, int], ...]

    def formats(self, kv_dtype: KvDtype = DEFAULT_KV_DTYPE) -> list[PageFormat]:
        groups, first = [], 0
        for window, count in self.windows:
            layers = tuple(range(first, first := first + count))
            name = "full" if window is None else f"window{window}"
            groups.append(PageFormat(name, layers, self.kv_heads, self.dim, self.dim, kv_dtype))
        return groups

    def layers(self) -> tuple[LayerPlan, ...]:
        scale = self.dim**-0.5
        targets = [(group, slot) for group, (_, count) in enumerate(self.windows) for slot in range(count)]
        return tuple(LayerPlan(*target, owns=True, scale=scale) for target in targets)


SMOLLM2 = Shape("SmolLM2-135M", 9, 3, 64, ((None, 30),))
GEMMA3 = Shape("Gemma 3 270M", 4, 1, 256, ((None, 3), (512, 15)))


@dataclass(frozen=True, slots=True)
class Load:
    """A step: ``batch`` sequences of ``context`` positions, of which the first ``shared`` are common, ask their last
    ``rows``."""

    kind: str
    shape: Shape
    context: int
    batch: int = 1
    rows: int = 1
    shared: int = 0
    kv_dtype: KvDtype = DEFAULT_KV_DTYPE

    def formats(self) -> list[PageFormat]:
        return self.shape.formats(self.kv_dtype)


LOADS = (
    *(Load("decode", SMOLLM2, context, batch) for batch in (1, 8) for context in (512, 1024, 2048, 4096, 8192)),
    *(Load("decode", GEMMA3, context) for context in (512, 2048, 8192)),
    *(Load("shared", SMOLLM2, 2112, 8, rows, 2048) for rows in (1, 64)),
    *(Load("few rows", SMOLLM2, 4096, 1, rows) for rows in (2, 4, 8, 16, 32, 64)),
    *(Load("prefill", SMOLLM2, context, 1, context) for context in (512, 2048, 4096)),
    *(Load("prefill", GEMMA3, context, 1, context) for context in (512, 2048, 4096)),
)


class Probe:
    """Measures the machine's limits in 100 ms, over and over; much shorter than ``measure_limits``."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._block = torch.ones(2**26)
        self._left, self._right = torch.rand(1024, 1024), torch.rand(1024, 1024)

    def measure(self) -> Limits:
        torch.set_num_threads(self.threads)
        times = [time.perf_counter()]
        self._block.sum()
        times.append(time.perf_counter())
        torch.mm(self._left, self._right)
        times.append(time.perf_counter())
        torch.set_num_threads(1)
        time.sleep(0.05)  # torch's workers spin for a while, on cores that the step needs
        return Limits(4 * 2**26 / (times[1] - times[0]) / 1e9, 2 * 1024**3 / (times[2] - times[1]) / 1e9)


def _best(limits: Iterable[Limits]) -> Limits:
    limits = list(limits)
    return Limits(max(x.read_gb_s for x in limits), max(x.sgemm_gflop_s for x in limits))


@dataclass(frozen=True, slots=True)
class Figures:
    """One measured step: milliseconds, the work it did, and what the machine could do at that time."""

    load: Load
    limits: Limits
    plan_ms: float
    times_ms: tuple[float, ...]
    kv_bytes: int
    flop: int

    @property
    def step_ms(self) -> float:
        return statistics.median(self.times_ms)

    def row(self) -> str:
        load, limits, rate = self.load, self.limits, 1e-6 / self.step_ms
        gb_s, gflop_s = self.kv_bytes * rate, self.flop * rate
        cells = (
            load.kind,
            load.shape.name,
            f"{load.context} ({load.shared} shared)" if load.shared else load.context,
            load.batch,
            load.rows,
            f"{self.plan_ms:.2f}",
            f"{self.step_ms:.2f}",
            f"{min(self.times_ms):.2f}",
            f"{gb_s:.1f} of {limits.read_gb_s:.1f} ({gb_s / limits.read_gb_s:.0%})",
            f"{gflop_s:.0f} of {limits.sgemm_gflop_s:.0f} ({gflop_s / limits.sgemm_gflop_s:.0%})",
        )
        return "| " + " | ".join(map(str, cells)) + " |"


def _tables(load: Load, arena: Arena) -> list[list[PageTable]]:
    """Page tables of every sequence, by layer group; shared positions lie in the same pages."""
    tables: list[list[PageTable]] = [[] for _ in range(load.batch)]
    for fmt, (window, _) in zip(load.formats(), load.shape.windows, strict=True):
        for b in range(load.batch):
            table = PageTable(fmt, window)
            for index in range(-(-load.context // PAGE_TOKENS)):
                shared = b > 0 and (index + 1) * PAGE_TOKENS <= load.shared
                page = tables[0][len(tables[b])].get(index) if shared else arena.allocate(fmt)
                assert page is not None, "the arena is too small"
                table.put(index, page, filled=0xFFFF, writable=not shared)
            tables[b].append(table)
    return tables


def _arena(load: Load) -> Arena:
    formats = load.formats()
    pages = load.batch * -(-load.context // PAGE_TOKENS)
    slab_bytes = max(2**21, *(fmt.page_bytes for fmt in formats)) if len(formats) > 1 else formats[0].page_bytes * 8
    per_slab = min(slab_bytes // fmt.page_bytes for fmt in formats)
    budget = sum(-(-pages // per_slab) + 1 for _ in formats) * (slab_bytes + 2048 * 64)
    return Arena(budget, slab_bytes)


def _fill(backend: CpuAttend, load: Load, tables: list[list[PageTable]]) -> None:
    """Random keys and values everywhere, the same in all layers."""
    shape, layers = load.shape, load.shape.layers()
    k_TKD, v_TKD = torch.randn(2, load.context, shape.kv_heads, shape.dim).numpy()
    for of_sequence in tables:
        plan = build_plan([Rows(SpanSet((Span(0, load.context),)), of_sequence)], layers)
        for layer in range(len(layers)):
            backend.write(k_TKD, v_TKD, plan, layer)


def _seen(load: Load, window: int | None) -> int:
    """Entries that all rows of the step see, in one layer."""
    positions = range(load.context - load.rows, load.context)
    return load.batch * sum(min(position + 1, window or position + 1) for position in positions)


def _read(load: Load, window: int | None) -> int:
    """Entries that the step has to read, in one layer and head: those that several rows see count once."""
    first = 0 if window is None else max(0, load.context - load.rows - window + 1)
    return load.batch * (load.context - first) - (load.batch - 1) * max(0, load.shared - first)


class Step:
    """A load that is set up: its step can be run again and again."""

    def __init__(self, load: Load, threads: int) -> None:
        self.load = load
        arena = _arena(load)
        self._tables, self._layers = _tables(load, arena), load.shape.layers()
        self._backend = CpuAttend(arena.memory, threads)
        _fill(self._backend, load, self._tables)
        self._asked = SpanSet((Span(load.context - load.rows, load.context),))
        self._q_THD = torch.randn(load.batch * load.rows, load.shape.heads, load.shape.dim).numpy()

    def run(self) -> tuple[float, float]:
        """Milliseconds that the plan took, and attention in all layers."""
        started = time.perf_counter()
        plan: Plan = build_plan([Rows(self._asked, table) for table in self._tables], self._layers)
        planned = time.perf_counter()
        for layer in range(len(self._layers)):
            self._backend.attend(self._q_THD, plan, layer)
        return 1e3 * (planned - started), 1e3 * (time.perf_counter() - planned)


def measure(load: Load, probe: Probe, repeats: int) -> Figures:
    """Time ``repeats`` steps after one to warm up."""
    shape, step = load.shape, Step(load, probe.threads)
    limits, plan_ms, times_ms = [], [], []
    for _ in range(repeats + 1):
        limits.append(probe.measure())
        planned_ms, attended_ms = step.run()
        plan_ms.append(planned_ms)
        times_ms.append(attended_ms)
    entry_bytes = load.formats()[0].token_bytes / shape.windows[0][1]
    kv_bytes = round(sum(count * entry_bytes * _read(load, window) for window, count in shape.windows))
    flop = sum(count * 4 * shape.dim * shape.heads * _seen(load, window) for window, count in shape.windows)
    return Figures(load, _best(limits[1:]), statistics.median(plan_ms[1:]), tuple(times_ms[1:]), kv_bytes, flop)


def fit(figures: Iterable[Figures]) -> list[str]:
    """For each batch of decodes: the line time = start + slope x context, beside the bytes that a token costs."""
    lines = []
    decodes = [f for f in figures if f.load.kind == "decode" and f.load.shape is SMOLLM2]
    for batch in sorted({f.load.batch for f in decodes}):
        points = [f for f in decodes if f.load.batch == batch]
        if len(points) < 2:
            continue
        contexts = [f.load.context for f in points]
        slope, start = np.polyfit(contexts, [f.step_ms for f in points], 1)
        read_gb_s = statistics.median(f.limits.read_gb_s for f in points)
        least = points[-1].kv_bytes / points[-1].load.context / read_gb_s / 1e6
        text = f"{start:.2f} ms + {1e3 * slope:.3f} us per position of context; bytes / read rate: {1e3 * least:.3f} us"
        lines.append(f"- decode, batch {batch}: {text} ({least / slope:.0%})")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", choices=sorted({load.kind for load in LOADS}), help="loads of one kind")
    options = parser.parse_args()
    probe = Probe(options.threads)
    print(f"{processor()}, {options.threads} threads; medians of {options.repeats}\n")
    columns = "step, model, context, batch, rows, plan ms, attend ms, best ms, GB/s of limit, GFLOP/s of sgemm"
    print("| " + columns.replace(", ", " | ") + " |")
    print("|" + "---|" * 10)
    figures = []
    for load in LOADS:
        if options.only in (None, load.kind):
            figures.append(measure(load, probe, options.repeats))
            print(figures[-1].row(), flush=True)
    print("", *fit(figures), sep="\n")


if __name__ == "__main__":
    main()
