"""From page tables to a plan: host work, once per step, vectorised per (sequence, layer group)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from kvloom.attend.plan import NO_PAGE, DensePart, LayerPlan, Plan
from kvloom.memory.format import PAGE_TOKENS
from kvloom.memory.table import PageTable

_Ints = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of one sequence in a step: ascending absolute positions, and its page tables by layer group."""

    positions: _Ints
    tables: Sequence[PageTable]


def build_plan(sequences: Sequence[Rows], layers: tuple[LayerPlan, ...]) -> Plan:
    """Describe where every row reads and writes. ``layers`` is the same for every step of a model."""
    counts = [len(rows.positions) for rows in sequences]
    num_groups = len(sequences[0].tables)
    return Plan(
        positions_T=torch.from_numpy(np.concatenate([rows.positions for rows in sequences])),
        seq_rows_B1=_offsets(counts),
        parts=tuple(_dense_part(sequences, group) for group in range(num_groups)),
        layers=layers,
    )


def _dense_part(sequences: Sequence[Rows], group: int) -> DensePart:
    reads = [_readable(rows.tables[group], rows.positions) for rows in sequences]
    writes = [_writable(rows.tables[group], rows.positions) for rows in sequences]
    table = sequences[0].tables[group]
    return DensePart(
        format=table.format,
        window=table.window,
        page_ids_P=_join([ids for ids, _ in reads]),
        page_starts_P=_join([starts for _, starts in reads]),
        seq_pages_B1=_offsets([len(ids) for ids, _ in reads]),
        row_pages_T=_join([pages for pages, _ in writes]),
        row_slots_T=_join([slots for _, slots in writes]),
    )


def _readable(table: PageTable, positions: _Ints) -> tuple[_Ints, _Ints]:
    """Ids and first positions of the pages that some row may see."""
    low = 0 if table.window is None else max(0, int(positions[0]) - table.window + 1) // PAGE_TOKENS
    high = int(positions[-1]) // PAGE_TOKENS + 1
    ids = table.ids[low:high]
    (kept,) = np.nonzero(ids != NO_PAGE)
    return ids[kept], ((kept + low) * PAGE_TOKENS).astype(np.int32)


def _writable(table: PageTable, positions: _Ints) -> tuple[_Ints, _Ints]:
    """Page and slot of each row's own entry; NO_PAGE where the entry is shared or sealed, and thus already there."""
    pages = positions // PAGE_TOKENS
    return np.where(table.writable[pages], table.ids[pages], np.int32(NO_PAGE)), positions % PAGE_TOKENS


def _join(arrays: Sequence[_Ints]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(np.concatenate(arrays), dtype=np.int32))


def _offsets(counts: Sequence[int]) -> torch.Tensor:
    return torch.from_numpy(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32))
