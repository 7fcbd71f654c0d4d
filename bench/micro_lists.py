"""Time attention over lists by head beside dense pages with as many entries, in alternating pairs.

    python -m bench.micro_lists [--threads 2] [--pairs 9] [--context 4096]

A step runs the layers of SmolLM2-135M (30 layers, 9 query heads on 3 KV heads of 64) over a context of random numbers
in the default format, binding of the plan and work plans included. Rows stand behind the context and see all of what is
kept. ``heads``: labelled pages of single heads that all keep as many entries. ``uneven``: budgets differ from head to
head by up to a third, their sum is the same. ``pages``: dense pages of all heads, of which each head reads some. A
ratio is the median over pairs.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bench.micro_attend import SMOLLM2
from kvloom.arrays import Bytes, Floats, aligned_bytes
from kvloom.attend.cpu import CpuAttend
from kvloom.attend.plan import (
    ByHead,
    BySequence,
    Contiguous,
    Group,
    Ints,
    Labelled,
    LayerPlan,
    Part,
    Plan,
    Writes,
)
from kvloom.config import DEFAULT_KV_DTYPE, processor
from kvloom.memory.arena import GRAIN_BYTES
from kvloom.memory.cells import cell, labels
from kvloom.memory.format import PAGE_TOKENS, PageFormat

SLOTS = SMOLLM2.windows[0][1]
HEADS = SMOLLM2.kv_heads
DENSE = SMOLLM2.formats()[0]
ONE_HEAD = PageFormat("per-head", (), 1, SMOLLM2.dim, SMOLLM2.dim, DEFAULT_KV_DTYPE, labelled=True)
LAYERS = tuple(LayerPlan(0, slot, False, SMOLLM2.dim**-0.5) for slot in range(SLOTS))


@dataclass(frozen=True, slots=True, eq=False)
class Kept:
    """A part over memory of its own."""

    memory: Bytes
    part: Part


def _ids(fmt: PageFormat, count: int) -> Ints:
    return np.arange(count, dtype=np.int32) * np.int32(-(-fmt.page_bytes // GRAIN_BYTES))


def _masks(sizes: list[int]) -> np.ndarray[tuple[int], np.dtype[np.uint16]]:
    """Whole pages, and a last one for the rest of each list."""
    masks: list[int] = []
    for size in sizes:
        masks += [0xFFFF] * (size // PAGE_TOKENS) + ([(1 << size % PAGE_TOKENS) - 1] if size % PAGE_TOKENS else [])
    return np.array(masks, np.uint16)


def _pages(size: int) -> int:
    return -(-size // PAGE_TOKENS)


def _written(count: int) -> Bytes:
    """Dense pages with random keys and values, written by the kernels."""
    ids = _ids(DENSE, count)
    memory = aligned_bytes(count * -(-DENSE.page_bytes // GRAIN_BYTES) * GRAIN_BYTES)
    rows = np.arange(count * PAGE_TOKENS, dtype=np.int32)
    bounds = np.array([0, count], np.int32)
    part = Part(DENSE, BySequence(bounds), Contiguous(np.arange(count, dtype=np.int32) * PAGE_TOKENS), ids)
    group = Group(None, (part,), (Writes(DENSE, ids[rows // PAGE_TOKENS], rows % PAGE_TOKENS),))
    layers = tuple(LayerPlan(0, slot, True, 1.0) for slot in range(SLOTS))
    plan, random = Plan(rows, np.array([0, rows.size], np.int32), (group,), layers), np.random.default_rng(0)
    backend = CpuAttend(memory, 2)
    for layer in range(SLOTS):
        k_TKD, v_TKD = random.standard_normal((2, rows.size, HEADS, SMOLLM2.dim), np.float32)
        backend.write(k_TKD, v_TKD, plan, layer)
    return memory


def dense(entries: int) -> Kept:
    count = _pages(entries)
    starts = np.arange(count, dtype=np.int32) * PAGE_TOKENS
    part = Part(DENSE, BySequence(np.array([0, count], np.int32)), Contiguous(starts), _ids(DENSE, count))
    masks = None if entries % PAGE_TOKENS == 0 else _masks([entries])
    return Kept(_written(count), Part(part.format, part.lists, part.entries, part.page_ids_P, masks))


def pages(entries: int, context: int) -> Kept:
    """Every head reads its own choice of dense pages."""
    count, wanted, random = _pages(context), _pages(entries), np.random.default_rng(1)
    chosen = np.concatenate([np.sort(random.permutation(count)[:wanted]) for _ in range(SLOTS * HEADS)])
    bounds = np.arange(SLOTS * HEADS + 1, dtype=np.int32) * np.int32(wanted)
    lists, starts = ByHead(bounds, SLOTS, HEADS), (chosen * PAGE_TOKENS).astype(np.int32)
    return Kept(_written(count), Part(DENSE, lists, Contiguous(starts), _ids(DENSE, count)[chosen]))


def heads(entries: int, context: int, spread: float) -> Kept:
    """Every head keeps its own entries in pages of its own: ``entries``, give or take a share of ``spread``."""
    random = np.random.default_rng(2)
    more = random.uniform(-spread, spread, SLOTS * HEADS)
    sizes = [round(entries * (1 + x)) for x in more - more.mean()]
    bounds = np.cumsum([0, *map(_pages, sizes)], dtype=np.int32)
    memory = aligned_bytes(int(bounds[-1]) * -(-ONE_HEAD.page_bytes // GRAIN_BYTES) * GRAIN_BYTES)
    ids, source = _ids(ONE_HEAD, int(bounds[-1])), _written(_pages(context))
    source_ids = _ids(DENSE, _pages(context))
    for n, size in enumerate(sizes):
        places = np.sort(random.permutation(context)[:size]).astype(np.int32)
        for page, first in zip(ids[bounds[n] : bounds[n + 1]].tolist(), range(0, size, PAGE_TOKENS), strict=True):
            from_page = int(source_ids[places[first] // PAGE_TOKENS])  # any numbers of the right kind will do
            for target, values in zip(
                cell(memory, ONE_HEAD, page, 0, 0), cell(source, DENSE, from_page, *divmod(n, HEADS)), strict=True
            ):
                target[:] = values
            positions, bias = labels(memory, ONE_HEAD, page)
            some = places[first : first + PAGE_TOKENS]
            positions[: some.size], bias[:] = some, 0.0
    lists = ByHead(bounds, SLOTS, HEADS)
    return Kept(memory, Part(ONE_HEAD, lists, Labelled(), ids, _masks(sizes)))


def step(kept: Kept, context: int, rows: int, threads: int) -> Callable[[], float]:
    """Runs all layers; returns milliseconds."""
    backend = CpuAttend(kept.memory, threads)
    q_THD: Floats = np.random.default_rng(3).standard_normal((rows, SMOLLM2.heads, SMOLLM2.dim), np.float32)
    positions, bounds = context + np.arange(rows, dtype=np.int32), np.array([0, rows], np.int32)

    def run() -> float:
        plan = Plan(positions, bounds, (Group(None, (kept.part,)),), LAYERS)
        started = time.perf_counter()
        for layer in range(SLOTS):
            backend.attend(q_THD, plan, layer)
        return 1e3 * (time.perf_counter() - started)

    return run


def _pair(ours: Callable[[], float], theirs: Callable[[], float], ours_first: bool) -> tuple[float, float]:
    """They alternate, since the caches hold the other's work for the one that runs first."""
    if ours_first:
        return ours(), theirs()
    after = theirs()
    return ours(), after


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--context", type=int, default=4096)
    options = parser.parse_args()
    print(f"{processor()}, {options.threads} threads, context {options.context}; medians of {options.pairs} pairs\n")
    print("| rows | kept | lists | ms | dense ms | ratio |\n|---|---|---|---|---|---|")
    for share in (0.2, 1.0):
        entries = round(share * options.context)
        beside = dense(entries)
        kinds = {"heads": heads(entries, options.context, 0.0), "pages": pages(entries, options.context)}
        if share < 1:
            kinds["uneven"] = heads(entries, options.context, 1 / 3)
        for rows in (1, 512):
            base = step(beside, options.context, rows, options.threads)
            for name, kept in kinds.items():
                other = step(kept, options.context, rows, options.threads)
                pairs = [_pair(other, base, n % 2 == 0) for n in range(options.pairs + 1)][1:]
                ours, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
                ratio = statistics.median(a / b for a, b in pairs)
                print(f"| {rows} | {share:.0%} | {name} | {ours:.2f} | {theirs:.2f} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
