"""From page tables to a plan: host work, once per step, in a few array operations over all sequences together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kvloom.attend.plan import NO_PAGE, DensePart, Ints, LayerPlan, Plan
from kvloom.memory.format import PAGE_TOKENS
from kvloom.memory.table import PageTable
from kvloom.segment import SpanSet


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of one sequence in a step: the positions of ``spans``, and its page tables by layer group."""

    spans: SpanSet
    tables: Sequence[PageTable]

    @property
    def first(self) -> int:
        return self.spans.spans[0].start

    @property
    def stop(self) -> int:
        return self.spans.spans[-1].stop


def build_plan(sequences: Sequence[Rows], layers: tuple[LayerPlan, ...]) -> Plan:
    """Describe where every row reads and writes. ``layers`` is the same for every step of a model."""
    flat: list[int] = []
    ends = [0]
    for rows in sequences:
        for span in rows.spans:
            flat += span.positions()
        ends.append(len(flat))
    positions_T, seq_rows_B1 = np.array(flat, np.int32), np.array(ends, np.int32)
    num_groups = len(sequences[0].tables)
    parts = tuple(_dense_part(sequences, group, positions_T, seq_rows_B1) for group in range(num_groups))
    return Plan(positions_T, seq_rows_B1, parts, layers)


def _dense_part(sequences: Sequence[Rows], group: int, positions_T: Ints, seq_rows_B1: Ints) -> DensePart:
    """Pages that some row of a sequence may see are one slice of its table; those of all sequences are laid in a row.

    table    . . [ low ............ high ) .      page numbers of one sequence
    laid     [ sequence 0 )[ sequence 1 ) ...     offset_B: where each begins
    """
    tables = [rows.tables[group] for rows in sequences]
    window = tables[0].window
    low = [0 if window is None else max(0, rows.first - window + 1) // PAGE_TOKENS for rows in sequences]
    high = [(rows.stop - 1) // PAGE_TOKENS + 1 for rows in sequences]
    ids_P = np.concatenate([table.ids[a:b] for table, a, b in zip(tables, low, high, strict=True)])
    writable_P = np.concatenate([table.writable[a:b] for table, a, b in zip(tables, low, high, strict=True)])
    bounds_B1 = np.concatenate([[0], np.cumsum(np.array(high) - low)])
    shift_B = bounds_B1[:-1] - low  # from a sequence's page number to its place in the row
    numbers_P = np.arange(ids_P.size) - np.repeat(shift_B, np.diff(bounds_B1))
    home_T = positions_T // PAGE_TOKENS + np.repeat(shift_B, np.diff(seq_rows_B1))
    row_pages_T = np.where(writable_P[home_T], ids_P[home_T], np.int32(NO_PAGE))
    there_P = ids_P != NO_PAGE
    if not there_P.all():
        ids_P, numbers_P = ids_P[there_P], numbers_P[there_P]
        bounds_B1 = np.concatenate([[0], np.cumsum(there_P)])[bounds_B1]
    return DensePart(
        format=tables[0].format,
        window=window,
        page_ids_P=ids_P,
        page_starts_P=(numbers_P * PAGE_TOKENS).astype(np.int32),
        seq_pages_B1=bounds_B1.astype(np.int32),
        row_pages_T=row_pages_T,
        row_slots_T=positions_T % PAGE_TOKENS,
    )
