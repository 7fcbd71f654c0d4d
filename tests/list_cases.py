"""Sequences that read tables and lists of every kind, over a memory of NaN that is filled only where entries are.

Legend: S entries, H query heads, K KV heads, D head dim.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from attend_cases import NUM_LAYERS, Pool, fill_cell, int32
from in_torch import rope
from kvloom.attend.builder import Rows, build_plan
from kvloom.attend.lists import HeadLists, MoreLists, SequenceList
from kvloom.attend.plan import Contiguous, Labelled, LayerPlan, Plan
from kvloom.codec import CODECS
from kvloom.memory.format import PAGE_TOKENS, PageFormat
from kvloom.memory.table import PageTable
from kvloom.model.rope import RopeTable
from kvloom.model.spec import RopeSpec
from kvloom.segment import PageId, Span, SpanSet

LAYERS = tuple(LayerPlan(0, slot, True, 0.125) for slot in range(NUM_LAYERS))


@dataclass(frozen=True, slots=True)
class Kind:
    """``whole``: pages hold all layers and heads; else one head of one layer, which only lists by head can name."""

    by_head: bool
    labelled: bool
    whole: bool
    masked: bool = False
    shift: int = 0
    even: bool = True

    def __str__(self) -> str:
        names = ("by_head", "labelled", "whole", "masked", "even")
        return "-".join([*(name for name in names if getattr(self, name)), str(self.shift)])


KINDS = tuple(
    Kind(by_head, labelled, whole, masked, shift)
    for by_head, labelled, whole, masked, shift in itertools.product(*[(False, True)] * 4, (0, 37))
    if by_head or whole
)


@dataclass(frozen=True, slots=True)
class Shape:
    heads: int = 4
    kv_heads: int = 2
    k_dim: int = 32
    v_dim: int = 48
    codec: str = "float32"

    def format(self, kind: Kind) -> PageFormat:
        layers, heads = (tuple(range(NUM_LAYERS)), self.kv_heads) if kind.whole else ((), 1)
        return PageFormat("x", layers, heads, self.k_dim, self.v_dim, self.codec, labelled=kind.labelled)


TABLE = Kind(by_head=False, labelled=False, whole=True)


@dataclass
class ListWorld:
    """Makes pages in one memory. ``asked``: positions of the rows of each sequence."""

    shape: Shape
    window: int | None = None
    seed: int = 0
    num_pages: int = 3000
    rope: RopeTable = field(init=False)

    def __post_init__(self) -> None:
        self.generator = torch.Generator().manual_seed(self.seed)
        shapes = [dataclasses.replace(self.shape, codec=codec) for codec in CODECS]  # a table may have any
        largest = max(shape.format(Kind(False, True, True)).page_bytes for shape in shapes)
        self.pool = Pool.of(self.num_pages, largest, self.generator)
        self.rope = RopeTable(RopeSpec(self.shape.k_dim - 16, 10_000.0))  # the last components do not rotate

    @property
    def memory(self) -> torch.Tensor:
        return self.pool.memory

    def table(self, length: int, codec: str | None = None) -> PageTable:
        """Everything up to ``length`` is there."""
        fmt = (
            self.shape.format(TABLE)
            if codec is None
            else Shape(**{**vars_of(self.shape), "codec": codec}).format(TABLE)
        )
        table = PageTable(fmt, self.window)
        for index in range(-(-length // PAGE_TOKENS)):
            page = self.pool.free.pop()
            entries = range(min(PAGE_TOKENS, length - index * PAGE_TOKENS))
            self.fill(
                fmt, page, [(slot, head) for slot in range(NUM_LAYERS) for head in range(fmt.heads)], list(entries), 0
            )
            table.put(index, PageId(page), filled=0xFFFF, writable=True)
        return table

    def lists(self, kind: Kind, limit: int, most: int = 24, raw: bool = False, moved: int = 0) -> MoreLists:
        """Random pages with entries at positions below ``limit``, all of which may be shifted.

        ``raw``: keys are rotated for their positions, after all of them were ``moved``.
        """
        fmt, shape = self.shape.format(kind), self.shape
        slots, heads = (NUM_LAYERS, shape.kv_heads) if kind.by_head else (1, 1)
        ids: list[int] = []
        starts: list[int] = []
        masks: list[int] = []
        sizes: list[int] = []
        count = self.below(most)
        for slot, head in itertools.product(range(slots), range(heads)):
            size = count if kind.even else self.below(most)
            firsts = sorted(
                torch.randperm(max(size, limit // PAGE_TOKENS + 1), generator=self.generator)[:size].tolist()
            )
            cells = (
                [(slot, head)] if kind.by_head else list(itertools.product(range(NUM_LAYERS), range(shape.kv_heads)))
            )
            for first in firsts:
                mask = self.below(2**PAGE_TOKENS) if kind.masked else 0xFFFF
                ids.append(self.pool.free.pop())
                starts.append(first * PAGE_TOKENS + 3 + moved)
                masks.append(mask)
                self.fill(fmt, ids[-1], cells, [n for n in range(PAGE_TOKENS) if mask >> n & 1], starts[-1], raw)
            sizes.append(size)
        entries = Labelled() if kind.labelled else Contiguous(int32(starts))
        masks_P = np.array(masks, np.uint16) if kind.masked else None
        if not kind.by_head:
            return SequenceList(fmt, entries, int32(ids), masks_P, kind.shift)
        bounds = int32([0, *itertools.accumulate(sizes)])
        return HeadLists(fmt, entries, slots, heads, int32(ids), bounds, masks_P, kind.shift)

    def fill(
        self,
        fmt: PageFormat,
        page: int,
        cells: list[tuple[int, int]],
        entries: list[int],
        first: int,
        raw: bool = False,
    ) -> None:
        for slot, head in cells:
            k_SD = torch.randn(len(entries), fmt.k_dim, generator=self.generator)
            if raw:
                k_SD = self.rotated(k_SD[:, None], first + torch.tensor(entries))[:, 0]
            v_SD = torch.randn(len(entries), fmt.v_dim, generator=self.generator)
            positions, bias = first + torch.tensor(entries), torch.randn(len(entries), generator=self.generator)
            if self.below(2):
                bias = torch.zeros_like(bias)
            fill_cell(self.memory, fmt, page, slot, head, k_SD, v_SD, positions, bias, entries)

    def below(self, limit: int) -> int:
        return int(torch.randint(limit, (1,), generator=self.generator))

    def queries(self, count: int) -> torch.Tensor:
        return torch.randn(count, self.shape.heads, self.shape.k_dim, generator=self.generator)

    def queries_at(self, positions: Sequence[int]) -> torch.Tensor:
        """Always the same raw queries, rotated for these positions."""
        generator = torch.Generator().manual_seed(1)
        q_THD = torch.randn(len(positions), self.shape.heads, self.shape.k_dim, generator=generator)
        return self.rotated(q_THD, torch.tensor(positions))

    def rotated(self, x_THD: torch.Tensor, positions_T: torch.Tensor) -> torch.Tensor:
        if len(x_THD):
            self.rope.cover(int(positions_T.max()))
            rope(x_THD, positions_T.int(), torch.from_numpy(self.rope.cos), torch.from_numpy(self.rope.sin), 1)
        return x_THD

    def plan(self, asked: Sequence[Rows]) -> Plan:
        return build_plan(asked, LAYERS, (self.rope,))


def rows(positions: Sequence[int], table: PageTable, more: Sequence[MoreLists] = ()) -> Rows:
    return Rows(SpanSet.of(Span(p, p + 1) for p in positions), (table,), (tuple(more),) if more else ())


def vars_of(shape: Shape) -> dict[str, object]:
    return {name: getattr(shape, name) for name in Shape.__slots__}
