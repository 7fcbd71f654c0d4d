"""From page tables to a plan: host work, once per step.

C++ gathers the numbers: when the kernels have just streamed the weights through the caches, a line of Python costs
several times what it costs when it is run again and again, and a call of numpy on a few numbers takes 10 us.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kvloom import _kernels
from kvloom.attend.plan import DensePart, Ints, LayerPlan, Plan
from kvloom.errors import InternalError
from kvloom.memory.table import PageTable
from kvloom.segment import SpanSet


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of one sequence in a step: the positions of ``spans``, and its page tables by layer group."""

    spans: SpanSet
    tables: Sequence[PageTable]


def build_plan(sequences: Sequence[Rows], layers: tuple[LayerPlan, ...]) -> Plan:
    """Describe where every row reads and writes. ``layers`` is the same for every step of a model.

    Raises InternalError when a sequence has no rows, or rows beyond its tables.
    """
    try:
        return _laid(sequences, layers)
    except ValueError as error:
        raise InternalError(f"the step cannot be laid out: {error}") from None


def _laid(sequences: Sequence[Rows], layers: tuple[LayerPlan, ...]) -> Plan:
    spans = [[(span.start, span.stop) for span in rows.spans] for rows in sequences]
    numbers, count = _kernels.lay_rows(spans)
    laid = np.frombuffer(numbers, np.int32)
    positions_T, slots_T, seq_rows_B1 = laid[:count], laid[count : 2 * count], laid[2 * count :]
    groups = zip(*[rows.tables for rows in sequences], strict=True)
    parts = tuple([_dense_part(spans, tables, slots_T) for tables in groups])
    return Plan(positions_T, seq_rows_B1, parts, layers)


def _dense_part(spans: list[list[tuple[int, int]]], tables: Sequence[PageTable], slots_T: Ints) -> DensePart:
    """One layer group: ``tables`` has one per sequence."""
    some = tables[0]
    numbers, count = _kernels.lay_pages(spans, [(table.ids, table.writable) for table in tables], some.window)
    laid = np.frombuffer(numbers, np.int32)
    rows = 2 * count + len(tables) + 1
    page_ids_P, page_starts_P, seq_pages_B1 = laid[:count], laid[count : 2 * count], laid[2 * count : rows]
    return DensePart(some.format, some.window, page_ids_P, page_starts_P, seq_pages_B1, laid[rows:], slots_T)
