"""Sealed pages in another codec: what becomes of their bytes, their holders, and whoever finds them."""

from __future__ import annotations

import numpy as np
import pytest

from kvloom.codec import CODECS
from kvloom.errors import InternalError
from kvloom.memory.arena import Arena, page_stride
from kvloom.memory.cells import decoded
from kvloom.memory.format import PageFormat
from kvloom.memory.index import Index
from kvloom.memory.keys import root_key
from kvloom.memory.ledger import Identity, Ledger
from kvloom.memory.table import FULL_MASK, PageTable
from kvloom.policy.actions import Recode
from kvloom.policy.events import Block
from kvloom.policy.retention.lru import LeastRecentlyUsed
from kvloom.segment import PageId, Why

FORMAT = PageFormat("full", (0, 1), 2, 32, 48, "int16")
ROOT = root_key(weights="w", formats="f")


class Heard:
    """All events, by name and page."""

    def __init__(self) -> None:
        self.events: list[tuple[str, PageId]] = []

    def stored(self, block: Block, now: float) -> None:
        self.events.append(("stored", block.page))

    def reused(self, block: Block, now: float) -> None:
        self.events.append(("reused", block.page))

    def idle(self, block: Block, now: float) -> None:
        self.events.append(("idle", block.page))

    def gone(self, block: Block, why: Why, now: float) -> None:
        self.events.append(("gone", block.page))


def ledger(kv_bytes: int = 400_000) -> Ledger:
    return Ledger(Arena(kv_bytes, 65_536), Index(1), LeastRecentlyUsed())


def written(book: Ledger, fmt: PageFormat = FORMAT, owner: str = "a") -> tuple[PageId, PageTable]:
    """A full, sealed page of random numbers, at index 2 of a table."""
    page = book.allocate(fmt, owner)
    assert page is not None
    cells = fmt.heads * len(fmt.layers)
    random = np.random.default_rng(0)
    k_NSD, v_NSD = (random.standard_normal((cells, 16, dim), np.float32) for dim in (fmt.k_dim, fmt.v_dim))
    start = page * 64
    bytes_NB = book.arena.memory[start : start + fmt.page_bytes].reshape(cells, fmt.cell_bytes)
    bytes_NB[:, : fmt.k_bytes] = fmt.numbers.keys.encode(k_NSD)
    bytes_NB[:, fmt.k_bytes : fmt.k_bytes + fmt.v_bytes] = fmt.numbers.values.encode(v_NSD)
    return page, table_of(page, fmt)


def table_of(page: PageId, fmt: PageFormat = FORMAT) -> PageTable:
    table = PageTable(fmt, None)
    table.put(2, page, filled=FULL_MASK, writable=False)
    return table


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("source", CODECS)
def test_a_recoded_page_means_the_same_within_the_bound(source: str, codec: str) -> None:
    book, fmt = ledger(), FORMAT.recoded(source)
    page, table = written(book, fmt)
    before = [decoded(book.arena.memory, fmt, page, slot, head) for slot in range(2) for head in range(2)]
    if source == codec:
        with pytest.raises(InternalError):
            book.recode(Recode(page, codec, ("a",)), {"a": table})
        return
    new = book.recode(Recode(page, codec, ("a",)), {"a": table})
    assert new is not None
    target, numbers = fmt.recoded(codec), CODECS[codec]
    after = [decoded(book.arena.memory, target, new, slot, head) for slot in range(2) for head in range(2)]
    for (k, v), (k_then, v_then) in zip(before, after, strict=True):
        assert (np.abs(k_then - k) <= numbers.keys.bound(k)).all()
        assert (np.abs(v_then - v) <= numbers.values.bound(v)).all()
    assert (table.get(2), table.format_of(2), table.is_full(2)) == (new, target, True)
    assert book.held_bytes == table.held_bytes() == page_stride(target), "each page is counted by its own format"
    book.check([(new, "a")])
    book.release([table.take(2)], "a")
    assert book.arena.used_bytes == 0


def test_others_keep_what_was_there_and_find_it() -> None:
    book, heard = ledger(), Heard()
    book.events.listeners.append(heard)
    page, table = written(book)
    book.publish(page, Identity(ROOT, range(16), 32, 0, 0))
    book.hold(page, "b")
    book.hold(page, "c")
    heard.events.clear()
    mine, theirs = table_of(page), table_of(page)
    new = book.recode(Recode(page, "int8", ("a", "c")), {"a": table, "c": mine, "b": theirs})
    assert new is not None
    assert (table.get(2), mine.get(2), theirs.get(2)) == (new, new, page)
    book.check([(new, "a"), (new, "c"), (page, "b")])
    assert heard.events == []
    book.release([page], "b")
    assert heard.events == [("idle", page)]
    assert book.droppable() == [page]
    assert book.publish(new, Identity(ROOT, range(16), 32, 0, 0)) == new
    assert new not in book.index, "nobody who looks for exact KV finds it"


def test_what_only_its_holders_know_is_free_at_once() -> None:
    book = ledger()
    page, table = written(book)
    used = book.held_bytes
    book.recode(Recode(page, "int8", ("a",)), {"a": table})
    assert book.held_bytes == page_stride(FORMAT.recoded("int8")) < used
    assert book.cached_pages == 0


def test_what_cannot_be_recoded_changes_nothing() -> None:
    book = ledger()
    page, table = written(book)
    unsealed, half, elsewhere = table_of(page), table_of(page), PageTable(FORMAT, None)
    unsealed.writable[2] = 1
    half.filled[2] = 0xFF
    head = PageFormat("per-head", (), 1, 32, 32, "int16", labelled=True)
    extent = book.allocate_extent(head, 3, "a")
    assert extent is not None
    broken = [
        (Recode(page, "int8", ("a",)), {"a": unsealed}),
        (Recode(page, "int8", ("a",)), {"a": half}),
        (Recode(page, "int8", ("a",)), {"a": elsewhere}),
        (Recode(page, "int8", ("a",)), {}),
        (Recode(page, "int8", ("b",)), {"b": table_of(page)}),
        (Recode(page, "int8", ("a", "a")), {"a": table}),
        (Recode(page, "int8", ()), {"a": table}),
        (Recode(page, "int16", ("a",)), {"a": table}),
        (Recode(PageId(page + 1), "int8", ("a",)), {"a": table_of(PageId(page + 1))}),
        (Recode(extent.page, "int8", ("a",)), {"a": table_of(extent.page, head)}),
    ]
    for action, tables in broken:
        with pytest.raises(InternalError):
            book.recode(action, tables)
    book.check([(page, "a"), (extent.page, "a")])
    assert table.get(2) == page


def test_without_room_nothing_changes() -> None:
    book = ledger(kv_bytes=200_000)
    page, table = written(book)
    while book.allocate(FORMAT, "b") is not None:
        pass
    assert book.recode(Recode(page, "int8", ("a",)), {"a": table}) is None
    assert (table.get(2), table.others) == (page, {})


def test_a_page_larger_than_a_slab_is_no_fit() -> None:
    book = ledger()
    wide = PageFormat("full", tuple(range(12)), 1, 128, 128, "int8")
    page, table = written(book, wide)
    assert page_stride(wide) < book.arena.slab_bytes < page_stride(wide.recoded("float32"))
    assert book.recode(Recode(page, "float32", ("a",)), {"a": table}) is None
