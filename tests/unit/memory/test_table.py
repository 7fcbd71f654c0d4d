"""Page tables: what is where, what is written, what may be written."""

from __future__ import annotations

from kvloom.memory.format import PageFormat
from kvloom.memory.table import FULL_MASK, PageTable
from kvloom.segment import PageId, Span, SpanSet


def table() -> PageTable:
    return PageTable(PageFormat("full", (0,), 1, 16, 16, "float16"), None)


def test_grows_to_any_index_and_keeps_what_was_there() -> None:
    t = table()
    t.put(0, PageId(5), filled=1, writable=True)
    t.put(1000, PageId(6), filled=0, writable=True)
    assert list(t.pages()) == [(0, 5), (1000, 6)]
    assert t.get(5000) is None


def test_mark_reports_pages_that_became_full_once() -> None:
    t = table()
    for index in range(3):
        t.put(index, PageId(index), filled=0, writable=True)
    assert t.mark(Span(0, 20)) == [0]
    assert t.mark(Span(20, 40)) == [1]
    assert t.mark(Span(10, 32)) == []
    assert t.resident() == SpanSet((Span(0, 40),))


def test_shared_pages_are_not_marked() -> None:
    t = table()
    t.put(0, PageId(1), filled=0b11, writable=False)
    assert t.mark(Span(0, 16)) == []
    assert t.resident() == SpanSet((Span(0, 2),))


def test_holes_show_as_holes() -> None:
    t = table()
    t.put(0, PageId(1), filled=FULL_MASK, writable=False)
    t.put(2, PageId(2), filled=0b111 << 4, writable=True)
    assert t.resident() == SpanSet((Span(0, 16), Span(36, 39)))
    assert t.take(0) == 1
    assert t.get(0) is None
    assert t.count() == 1
