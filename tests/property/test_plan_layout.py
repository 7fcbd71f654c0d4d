"""From page tables to a plan: what C++ lays out equals what a few lines of Python say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvloom.arrays import Floats
from kvloom.attend.builder import Rows, build_plan
from kvloom.attend.lists import HeadLists, MoreLists, SequenceList
from kvloom.attend.plan import NO_PAGE, ByHead, BySequence, Contiguous, Ints, Labelled, LayerPlan
from kvloom.errors import InternalError
from kvloom.memory.format import PAGE_TOKENS, PageFormat
from kvloom.memory.table import PageTable
from kvloom.segment import PageId, Span, SpanSet

FULL = PageFormat("full", (0,), 1, 16, 16, "float16")
NEAR = PageFormat("window", (1,), 1, 16, 16, "float16")
LAYERS = (LayerPlan(0, 0, True, 1.0), LayerPlan(1, 0, True, 1.0))


@st.composite
def sequences(draw: st.DrawFn, window: int) -> Rows:
    """Rows at some positions; tables in which each page is there or not, writable or not."""
    length = draw(st.integers(1, 6 * PAGE_TOKENS))
    bounds = sorted(draw(st.sets(st.integers(0, length), min_size=2, max_size=6)))
    spans = SpanSet.of(Span(*pair) for pair in zip(bounds[::2], bounds[1::2], strict=False))
    tables = PageTable(FULL, None), PageTable(NEAR, window)
    for table in tables:
        for index in range(-(-length // PAGE_TOKENS)):
            if draw(st.booleans()):
                table.put(index, PageId(draw(st.integers(0, 10**6))), filled=0, writable=draw(st.booleans()))
    return Rows(spans, tables)


@given(st.integers(1, 100).flatmap(lambda window: st.lists(sequences(window), min_size=1, max_size=4)))
def test_the_layout_is_what_the_tables_say(asked: list[Rows]) -> None:
    plan = build_plan(asked, LAYERS)
    positions = [[p for span in rows.spans for p in span.positions()] for rows in asked]
    flat = [p for each in positions for p in each]
    assert plan.positions_T.tolist() == flat
    assert plan.seq_rows_B1.tolist() == bounds_of(positions)
    for group, described in enumerate(plan.groups):
        (part,), (writes,) = described.parts, described.writes
        assert isinstance(part.lists, BySequence)
        assert isinstance(part.entries, Contiguous)
        assert described.window == asked[0].tables[group].window
        tables = [rows.tables[group] for rows in asked]
        listed = [visible(table, at) for table, at in zip(tables, positions, strict=True)]
        assert part.page_ids_P.tolist() == [
            table.ids[n] for table, pages in zip(tables, listed, strict=True) for n in pages
        ]
        assert part.entries.starts_P.tolist() == [n * PAGE_TOKENS for pages in listed for n in pages]
        assert part.lists.bounds_L1.tolist() == bounds_of(listed)
        homes = [home(table, p) for table, at in zip(tables, positions, strict=True) for p in at]
        assert writes.row_pages_T.tolist() == homes
        assert writes.row_slots_T.tolist() == [p % PAGE_TOKENS for p in flat]


def visible(table: PageTable, positions: list[int]) -> list[int]:
    """Numbers of the pages that are there and that some of these rows may see."""
    least = 0 if table.window is None else max(0, positions[0] - table.window + 1)
    pages = range(least // PAGE_TOKENS, positions[-1] // PAGE_TOKENS + 1)
    return [n for n in pages if table.ids[n] != NO_PAGE]


def home(table: PageTable, position: int) -> int:
    """The page that a row writes to."""
    number = position // PAGE_TOKENS
    return table.ids[number] if table.writable[number] else NO_PAGE


def bounds_of(lists: list[list[int]]) -> list[int]:
    return [sum(map(len, lists[:n])) for n in range(len(lists) + 1)]


def test_rows_beyond_a_table_are_an_error() -> None:
    with pytest.raises(InternalError, match="beyond its page table"):
        build_plan([Rows(SpanSet.full(9 * PAGE_TOKENS), (PageTable(FULL, None),))], LAYERS[:1])


def test_a_sequence_without_rows_is_an_error() -> None:
    with pytest.raises(InternalError, match="no rows"):
        build_plan([Rows(SpanSet(), (PageTable(FULL, None),))], LAYERS[:1])


def asks(position: int, table: PageTable, *more: MoreLists) -> Rows:
    table.put(position // PAGE_TOKENS, PageId(position), filled=0, writable=True)
    return Rows(SpanSet((Span(position, position + 1),)), (table,), (more,) if more else ())


def by_head(ids: list[int], sizes: list[int], shift: int = 0, masks: list[int] | None = None) -> HeadLists:
    bounds = np.cumsum([0, *sizes], dtype=np.int32)
    masks_P = None if masks is None else np.array(masks, np.uint16)
    return HeadLists(HEADS, Labelled(), 1, 2, np.array(ids, np.int32), bounds, masks_P, shift)


class NoTurns:
    def turns(self, shifts_U: Ints) -> tuple[Floats, Floats]:
        return np.ones((shifts_U.size, 8), np.float32), np.zeros((shifts_U.size, 8), np.float32)


HEADS = PageFormat("per-head", (), 1, 16, 16, "float16", labelled=True)
COARSE = PageFormat("full", (0,), 1, 16, 16, "bfloat16")


def test_lists_of_a_kind_make_a_part_and_who_has_none_reads_nothing() -> None:
    overlay = SequenceList(FULL, Contiguous(np.array([0, 32], np.int32)), np.array([7, 8], np.int32))
    sequences = [
        asks(20, PageTable(FULL, None), by_head([1, 2, 3], [1, 2], masks=[1, 2, 3]), overlay, by_head([9], [0, 1])),
        asks(40, PageTable(COARSE, None)),
        asks(33, PageTable(FULL, None), by_head([4], [1, 0], shift=5)),
    ]
    (group,) = build_plan(sequences, LAYERS[:1], (NoTurns(),)).groups
    shapes = [(part.format, type(part.lists), part.page_ids_P.tolist()) for part in group.parts]
    assert shapes == [
        (COARSE, BySequence, [40]),
        (FULL, BySequence, [20, 33]),
        (FULL, BySequence, [7, 8]),
        (HEADS, ByHead, [1, 2, 3, 4]),
        (HEADS, ByHead, [9]),
    ]
    bounds = [part.lists.bounds_L1.tolist() for part in group.parts]
    assert bounds == [[0, 0, 1, 1], [0, 1, 1, 2], [0, 2, 2, 2], [0, 1, 3, 3, 3, 4, 4], [0, 0, 1, 1, 1, 1, 1]]
    first, second = group.parts[3:]
    assert first.masks_P is not None
    assert first.masks_P.tolist() == [1, 2, 3, 0xFFFF]
    assert second.masks_P is None
    assert group.rotations is not None
    assert first.turns_L is not None
    assert group.rotations.shifts_U[first.turns_L].tolist() == [0, 0, 0, 0, 5, 5]
    assert [part.turns_L for part in group.parts if part is not first] == [None] * 4
    assert [writes.row_pages_T.tolist() for writes in group.writes] == [[NO_PAGE, 40, NO_PAGE], [20, NO_PAGE, 33]]
    alone = build_plan(sequences[:1], LAYERS[:1], (NoTurns(),)).groups[0].parts
    assert [(part.format, type(part.lists)) for part in alone] == [shape[:2] for shape in shapes[1:]]


def test_a_shift_that_nobody_can_turn_by_is_an_error() -> None:
    with pytest.raises(InternalError, match="how queries are turned"):
        build_plan([asks(0, PageTable(FULL, None), by_head([4], [1, 0], shift=5))], LAYERS[:1])
