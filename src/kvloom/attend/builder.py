"""From page tables to a plan: host work, once per step.

Numbers are gathered in plain arrays and slices of them; numpy only sees the result. A numpy call on a few numbers takes
10 us when the kernels have just streamed the weights through the caches, and there would be twenty per step.
"""

from __future__ import annotations

from array import array
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
    positions = array("i")
    ends = [0]
    for rows in sequences:
        for span in rows.spans:
            positions.extend(span.positions())
        ends.append(len(positions))
    slots_T = _ints(array("i", [position % PAGE_TOKENS for position in positions]))
    num_groups = len(sequences[0].tables)
    parts = tuple(_dense_part(sequences, group, slots_T) for group in range(num_groups))
    return Plan(_ints(positions), _ints(array("i", ends)), parts, layers)


def _dense_part(sequences: Sequence[Rows], group: int, slots_T: Ints) -> DensePart:
    """Pages that some row of a sequence may see are one slice of its table; those of all sequences are laid in a row.

    table    . . [ low ............ high ) .      page numbers of one sequence
    laid     [ sequence 0 )[ sequence 1 ) ...
    """
    first = sequences[0].tables[group]
    window = first.window
    every_start = array("i", range(0, max(rows.stop for rows in sequences), PAGE_TOKENS))
    ids, starts, ends, row_pages = array("i"), array("i"), [0], array("i")
    for rows in sequences:
        table = rows.tables[group]
        low = 0 if window is None else max(0, rows.first - window + 1) // PAGE_TOKENS
        high = (rows.stop - 1) // PAGE_TOKENS + 1
        ids += table.ids[low:high]
        starts += every_start[low:high]
        ends.append(len(ids))
        row_pages.extend(_row_pages(rows, table))
    page_ids_P, page_starts_P, seq_pages_B1 = _ints(ids), _ints(starts), _ints(array("i", ends))
    there_P = page_ids_P != NO_PAGE
    if not there_P.all():
        page_ids_P, page_starts_P = page_ids_P[there_P], page_starts_P[there_P]
        seq_pages_B1 = np.concatenate([[0], np.cumsum(there_P)])[seq_pages_B1].astype(np.int32)
    return DensePart(first.format, window, page_ids_P, page_starts_P, seq_pages_B1, _ints(row_pages), slots_T)


def _row_pages(rows: Rows, table: PageTable) -> list[int]:
    """The page that each row writes to."""
    ids, writable = table.ids, table.writable
    numbers = [position // PAGE_TOKENS for span in rows.spans for position in span.positions()]
    return [ids[number] if writable[number] else NO_PAGE for number in numbers]


def _ints(numbers: array[int]) -> Ints:
    """The same memory as numpy sees it."""
    return np.frombuffer(numbers, np.int32)
