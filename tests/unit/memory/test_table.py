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


def test_pages_of_other_formats_are_told_apart() -> None:
    t = table()
    other = t.format.recoded("int8")
    for index in range(4):
        t.put(index, PageId(index), filled=FULL_MASK, writable=False, format=other if index % 2 else t.format)
    assert [t.format_of(index).codec for index in range(5)] == ["float16", "int8", "float16", "int8", "float16"]
    assert [list(t.ids_in(fmt)[:5]) for fmt in (t.format, other)] == [[0, -1, 2, -1, -1], [-1, 1, -1, 3, -1]]
    assert set(t.ids_in(other.recoded("float32"))) == {-1}
    assert t.held_bytes() == 2 * 16 * (32 + 32) + 2 * 16 * (20 + 20)
    t.put(1, PageId(7), filled=FULL_MASK, writable=False)
    assert t.take(3) == 3
    assert t.others == {}
    assert t.ids_in(t.format) is t.ids
