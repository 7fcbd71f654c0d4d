"""From page tables to a plan: what C++ lays out equals what a few lines of Python say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvloom.attend.builder import Rows, build_plan
from kvloom.attend.plan import NO_PAGE, BySequence, Contiguous, LayerPlan
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
