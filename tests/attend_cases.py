"""Random paged contexts for the attend tests, and the answers they must get.

A ``Case`` says what is asked; a ``World`` lays its KV out in pages of a memory that starts as NaN everywhere:
a byte read without having been written shows.

Legend: S stored positions, T rows, H query heads, K KV heads, D head dim.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from in_torch import TensorAttend, met_queries, rounded_keys, rounded_values
from kvloom.attend.plan import (
    NO_PAGE,
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
from kvloom.memory.arena import GRAIN_BYTES
from kvloom.memory.format import PAGE_TOKENS, PageFormat

NUM_LAYERS = 2


def stored_tolerance(codec: str) -> float:
    """Against attention over the KV as stored. Kernels round weights that meet bytes to 15 bits of the greatest."""
    return 5e-4 if codec == "int8" else 1e-5


Rows = Sequence[tuple[int, ...]]  # the positions that each sequence asks


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """``lengths``: positions of each sequence. ``rows``: those asked in this step; the others are cached."""

    lengths: tuple[int, ...]
    rows: tuple[tuple[int, ...], ...]
    heads: int = 4
    kv_heads: int = 2
    k_dim: int = 64
    v_dim: int = 64
    codec: str = "float32"
    window: int | None = None
    seed: int = 0

    @property
    def scale(self) -> float:
        return 1.0 / math.sqrt(self.k_dim)


def int32(values: list[int]) -> Ints:
    return np.array(values, dtype=np.int32)


def bounds(lengths: list[int]) -> Ints:
    return int32([0, *itertools.accumulate(lengths)])


@dataclass(slots=True)
class Pool:
    """A memory full of NaN (in every codec) that hands out pages in random order."""

    memory: torch.Tensor
    free: list[int]

    @staticmethod
    def of(num_pages: int, page_bytes: int, generator: torch.Generator) -> Pool:
        grains = -(-page_bytes // GRAIN_BYTES)
        memory = torch.full((max(1, num_pages) * grains * GRAIN_BYTES,), 0xFF, dtype=torch.uint8)
        order = torch.randperm(num_pages, generator=generator).tolist()
        return Pool(memory, [page * grains for page in order])


@dataclass(slots=True)
class World:
    """One dense part. ``tables[b]`` maps page number (position // 16) to page id."""

    case: Case
    format: PageFormat
    pool: Pool
    tables: list[dict[int, int]]
    q: list[torch.Tensor] = field(default_factory=list)
    k: list[torch.Tensor] = field(default_factory=list)
    v: list[torch.Tensor] = field(default_factory=list)

    @staticmethod
    def of(case: Case) -> World:
        generator = torch.Generator().manual_seed(case.seed)
        fmt = PageFormat("full", tuple(range(NUM_LAYERS)), case.kv_heads, case.k_dim, case.v_dim, case.codec)
        counts = [-(-length // PAGE_TOKENS) for length in case.lengths]
        pool = Pool.of(sum(counts), fmt.page_bytes, generator)
        world = World(case, fmt, pool, [{page: pool.free.pop() for page in range(count)} for count in counts])
        for length in case.lengths:
            for store, heads, dim in (
                (world.q, case.heads, case.k_dim),
                (world.k, case.kv_heads, case.k_dim),
                (world.v, case.kv_heads, case.v_dim),
            ):
                store.append(torch.randn(length, heads, dim, generator=generator))
        return world

    def plan(self, rows: Rows, absent: Sequence[set[int]] | None = None, write: bool = True) -> Plan:
        """A step that asks ``rows`` of every sequence; pages in ``absent`` are not in its lists."""
        absent = absent or [set() for _ in rows]
        listed = [[n for n in sorted(table) if n not in gone] for table, gone in zip(self.tables, absent, strict=True)]
        placed = [(b, position) for b, positions in enumerate(rows) for position in positions]
        homes = [self.tables[b][p // PAGE_TOKENS] if write else NO_PAGE for b, p in placed]
        lists = BySequence(bounds([len(numbers) for numbers in listed]))
        entries = Contiguous(int32([n * PAGE_TOKENS for numbers in listed for n in numbers]))
        page_ids_P = int32([self.tables[b][n] for b, numbers in enumerate(listed) for n in numbers])
        writes = Writes(self.format, int32(homes), int32([p % PAGE_TOKENS for _, p in placed]))
        group = Group(self.case.window, (Part(self.format, lists, entries, page_ids_P),), (writes,))
        layers = tuple(LayerPlan(0, slot, True, self.case.scale) for slot in range(NUM_LAYERS))
        return Plan(int32([p for _, p in placed]), bounds([len(positions) for positions in rows]), (group,), layers)

    def gather(self, store: list[torch.Tensor], rows: Rows) -> torch.Tensor:
        """The values of the rows of a step, (T, heads, D). Rows are alike in all layers."""
        return torch.cat([values[list(positions)] for values, positions in zip(store, rows, strict=True)])

    def store(self, backend: TensorAttend, rows: Rows, layer: int = 1) -> None:
        backend.write(self.gather(self.k, rows), self.gather(self.v, rows), self.plan(rows), layer)

    def fill_cached(self, backend: TensorAttend, layer: int = 1) -> None:
        """Store everything that the case's rows do not compute themselves."""
        cached = [
            tuple(sorted(set(range(length)) - set(rows)))
            for length, rows in zip(self.case.lengths, self.case.rows, strict=True)
        ]
        self.store(backend, cached, layer)

    def step(
        self,
        backend: TensorAttend,
        rows: Rows | None = None,
        absent: list[set[int]] | None = None,
        layer: int = 1,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write and attend the rows, as a model layer does."""
        rows = self.case.rows if rows is None else rows
        plan = self.plan(rows, absent)
        backend.write(self.gather(self.k, rows), self.gather(self.v, rows), plan, layer)
        return backend.attend(self.gather(self.q, rows), plan, layer)

    def oracle(self, rounded: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
        """Dense causal attention in float64 over whole sequences; ``rounded`` rounds as the codec does first."""
        outs, lses = [], []
        for q, k, v, rows in zip(self.q, self.k, self.v, self.case.rows, strict=True):
            if rounded:
                q, k = met_queries(self.format, q), rounded_keys(self.format, k)
                v = rounded_values(self.format, v)
            asked, positions = torch.tensor(rows, dtype=torch.long), torch.arange(len(k))
            visible = positions <= asked[:, None]
            if self.case.window is not None:
                visible &= positions > asked[:, None] - self.case.window
            out, lse = softmax_oracle(q[asked], k, v, visible, self.case.scale)
            outs.append(out)
            lses.append(lse)
        return torch.cat(outs), torch.cat(lses)


def softmax_oracle(
    q_THD: torch.Tensor,
    k_SKD: torch.Tensor,
    v_SKD: torch.Tensor,
    visible_TS: torch.Tensor,
    scale: float,
    bias_SK: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Textbook attention in float64: (out_THD, lse_TH); (0, -inf) for a row that sees nothing."""
    group = q_THD.shape[1] // k_SKD.shape[1]
    k_SHD, v_SHD = (x.double().repeat_interleave(group, dim=1) for x in (k_SKD, v_SKD))
    scores_THS = torch.einsum("thd,shd->ths", q_THD.double(), k_SHD) * scale
    if bias_SK is not None:
        scores_THS = scores_THS + bias_SK.double().repeat_interleave(group, dim=1).T
    scores_THS = scores_THS.masked_fill(~visible_TS[:, None, :], -torch.inf)
    lse_TH = torch.logsumexp(scores_THS, dim=-1)
    weights_THS = torch.exp(scores_THS - lse_TH.nan_to_num(neginf=0.0)[..., None])
    return torch.einsum("ths,shd->thd", weights_THS, v_SHD), lse_TH


def head_format(case: Case) -> PageFormat:
    return PageFormat("per-head", (), 1, case.k_dim, case.v_dim, case.codec, labelled=True)


def head_pool(case: Case) -> Pool:
    """Room for one part with lists by head and, beside it, the dense pages."""
    pages = sum(-(-length // PAGE_TOKENS) for length in case.lengths)
    dense_bytes = PageFormat("full", (0, 1), case.kv_heads, case.k_dim, case.v_dim, case.codec).page_bytes
    page_bytes = max(dense_bytes, head_format(case).page_bytes)
    count = pages * (1 + NUM_LAYERS * case.kv_heads)
    return Pool.of(count, page_bytes, torch.Generator().manual_seed(case.seed))


def kept_part(
    world: World, keep: float, pool: Pool, below: int | None = None
) -> tuple[Part, dict[tuple[int, int, int], torch.Tensor], torch.Tensor]:
    """Hold a random share of each (sequence, layer, head)'s positions (or of those ``below``) in pages of its own.

    Returns (part, kept positions by (layer, sequence, head), bias of every position).
    """
    case = world.case
    generator = torch.Generator().manual_seed(case.seed + 1)
    fmt = head_format(case)
    bias_S = torch.randn(max(case.lengths), generator=generator)
    kept, ids, masks, sizes = {}, [], [], []
    cells = itertools.product(range(len(case.lengths)), range(NUM_LAYERS), range(case.kv_heads))
    for b, layer, head in cells:
        limit = case.lengths[b] if below is None else min(below, case.lengths[b])
        positions = torch.nonzero(torch.rand(limit, generator=generator) < keep).flatten()
        kept[layer, b, head] = positions
        pieces = [positions[i : i + PAGE_TOKENS] for i in range(0, len(positions), PAGE_TOKENS)]
        sizes.append(len(pieces))
        for piece in pieces:
            ids.append(pool.free.pop())
            masks.append((1 << piece.numel()) - 1)
            fill_cell(
                pool.memory, fmt, ids[-1], 0, 0, world.k[b][piece, head], world.v[b][piece, head], piece, bias_S[piece]
            )
    lists = ByHead(bounds(sizes), NUM_LAYERS, case.kv_heads)
    return Part(fmt, lists, Labelled(), int32(ids), np.array(masks, np.uint16)), kept, bias_S


def fill_cell(
    memory: torch.Tensor,
    fmt: PageFormat,
    page: int,
    slot: int,
    head: int,
    k_SD: torch.Tensor,
    v_SD: torch.Tensor,
    positions_S: torch.Tensor,
    bias_S: torch.Tensor,
    entries: Sequence[int] | None = None,
) -> None:
    """Store entries (the first ones, or those named) of one cell of a page, with labels where the format has them."""
    places = list(range(len(k_SD))) if entries is None else list(entries)
    start = page * GRAIN_BYTES + fmt.cell_offset(slot, head)
    cell = memory[start : start + fmt.cell_bytes]
    fmt.numbers.keys.put(k_SD.numpy(), cell[: fmt.k_bytes].numpy(), places)
    fmt.numbers.values.put(v_SD.numpy(), cell[fmt.k_bytes : fmt.k_bytes + fmt.v_bytes].numpy(), places)
    if fmt.labelled:
        labels = cell[fmt.k_bytes + fmt.v_bytes :]
        labels[: 4 * fmt.tokens].view(torch.int32)[places] = positions_S.int()
        labels[4 * fmt.tokens :].view(torch.float32)[places] = bias_S.float()


def joined(plan: Plan, parts: tuple[Part, ...], window: int | None = None) -> Plan:
    """A plan like ``plan`` whose layers read all of ``parts``, in order, and write nothing."""
    layers = tuple(LayerPlan(0, slot, False, layer.scale) for slot, layer in enumerate(plan.layers))
    return Plan(plan.positions_T, plan.seq_rows_B1, (Group(window, parts),), layers)
