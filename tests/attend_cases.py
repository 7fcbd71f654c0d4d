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

from in_torch import TensorAttend, rounded_keys, rounded_values
from kvloom.attend.plan import NO_PAGE, DensePart, Ints, LayerPlan, Part, Plan, RaggedPart
from kvloom.attend.reference import met_queries, stored_keys, stored_values
from kvloom.memory.arena import GRAIN_BYTES
from kvloom.memory.format import PAGE_TOKENS, PageFormat

NUM_LAYERS = 2
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
        part = DensePart(
            format=self.format,
            window=self.case.window,
            page_ids_P=int32([self.tables[b][n] for b, numbers in enumerate(listed) for n in numbers]),
            page_starts_P=int32([n * PAGE_TOKENS for numbers in listed for n in numbers]),
            seq_pages_B1=bounds([len(numbers) for numbers in listed]),
            row_pages_T=int32(homes),
            row_slots_T=int32([p % PAGE_TOKENS for _, p in placed]),
        )
        layers = tuple(LayerPlan(((0, slot),), (0, slot), self.case.scale) for slot in range(NUM_LAYERS))
        return Plan(int32([p for _, p in placed]), bounds([len(positions) for positions in rows]), (part,), layers)

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


def ragged_format(case: Case) -> PageFormat:
    return PageFormat("ragged", (), 1, case.k_dim, case.v_dim, case.codec, ragged=True)


def ragged_pool(case: Case) -> Pool:
    """Room for one ragged part and, beside it, the dense pages."""
    pages = sum(-(-length // PAGE_TOKENS) for length in case.lengths)
    dense_bytes = PageFormat("full", (0, 1), case.kv_heads, case.k_dim, case.v_dim, case.codec).page_bytes
    page_bytes = max(dense_bytes, ragged_format(case).page_bytes)
    count = pages * (1 + NUM_LAYERS * case.kv_heads)
    return Pool.of(count, page_bytes, torch.Generator().manual_seed(case.seed))


def ragged_part(
    world: World, keep: float, pool: Pool, window: int | None = None, below: int | None = None
) -> tuple[RaggedPart, dict[tuple[int, int, int], torch.Tensor], torch.Tensor]:
    """Hold a random share of each (layer, sequence, head)'s positions (or of those ``below``) in pages.

    Returns (part, kept positions by cell, bias of every position).
    """
    case = world.case
    generator = torch.Generator().manual_seed(case.seed + 1)
    fmt = ragged_format(case)
    bias_S = torch.randn(max(case.lengths), generator=generator)
    kept, ids, counts, sizes = {}, [], [], []
    cells = itertools.product(range(NUM_LAYERS), range(len(case.lengths)), range(case.kv_heads))
    for layer, b, head in cells:
        limit = case.lengths[b] if below is None else min(below, case.lengths[b])
        positions = torch.nonzero(torch.rand(limit, generator=generator) < keep).flatten()
        kept[layer, b, head] = positions
        pieces = [positions[i : i + PAGE_TOKENS] for i in range(0, len(positions), PAGE_TOKENS)]
        sizes.append(len(pieces))
        for piece in pieces:
            ids.append(pool.free.pop())
            counts.append(piece.numel())
            _fill_ragged(pool.memory, fmt, ids[-1], world.k[b][piece, head], world.v[b][piece, head], piece, bias_S)
    part = RaggedPart(fmt, window, case.kv_heads, int32(ids), int32(counts), bounds(sizes))
    return part, kept, bias_S


def _fill_ragged(
    memory: torch.Tensor,
    fmt: PageFormat,
    page: int,
    k_SD: torch.Tensor,
    v_SD: torch.Tensor,
    positions_S: torch.Tensor,
    bias_S: torch.Tensor,
) -> None:
    start, count = page * GRAIN_BYTES, positions_S.numel()
    cell = memory[start : start + fmt.page_bytes]
    k_SW, v_SD = stored_keys(fmt, k_SD), stored_values(fmt, v_SD)
    cell[: fmt.k_bytes].view(k_SW.dtype).view(-1, fmt.tokens)[:, :count] = k_SW.T
    cell[fmt.k_bytes : fmt.k_bytes + fmt.v_bytes].view(v_SD.dtype).view(fmt.tokens, -1)[:count] = v_SD
    labels = cell[fmt.k_bytes + fmt.v_bytes :]
    labels[: 4 * count].view(torch.int32)[:] = positions_S.int()
    labels[4 * fmt.tokens : 4 * (fmt.tokens + count)].view(torch.float32)[:] = bias_S[positions_S]


def joined(plan: Plan, parts: tuple[Part, ...]) -> Plan:
    """A plan like ``plan`` whose layers read all of ``parts``, in order."""
    layers = tuple(
        LayerPlan(tuple((index, slot) for index in range(len(parts))), None, layer.scale)
        for slot, layer in enumerate(plan.layers)
    )
    return Plan(plan.positions_T, plan.seq_rows_B1, parts, layers)
