"""The audit of the ledger's records against the arena, the index, and the holders of pages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from kvloom.errors import InternalError
from kvloom.memory.arena import Arena
from kvloom.memory.index import Index
from kvloom.memory.records import Books, Pool
from kvloom.policy.events import DEFAULT_PRIORITY, priority_of
from kvloom.segment import PageId


def audit(arena: Arena, index: Index, books: Books, holdings: Iterable[tuple[PageId, str]] | None) -> None:
    """Raises InternalError on any inconsistency. ``holdings``: all (page, owner) pairs, if known."""
    _pages(arena, books)
    _counts(books)
    _slabs(arena, books)
    _published(index, books)
    if holdings is not None:
        known = Counter((page, owner) for page, record in books.records.items() for owner in record.holders)
        if known != Counter(holdings):
            raise InternalError("the page tables and the ledger disagree about who holds what")


def _pages(arena: Arena, books: Books) -> None:
    used = {index: slab.used for index, slab in arena.slabs()}
    pages = [page for record in books.records.values() for page in record.pages]
    if Counter(map(arena.slab_of, pages)) != Counter(used):
        raise InternalError(f"{len(pages)} recorded pages for {sum(used.values())} that were taken")
    free = {page for _, slab in arena.slabs() for page in slab.free}
    if len(set(pages)) != len(pages) or free & set(pages):
        raise InternalError("a page is recorded twice, or free and recorded at once")
    extents = sum(record.extent is not None for record in books.records.values())
    if extents != arena.extents:
        raise InternalError(f"{extents} extents are recorded, {arena.extents} are charged")


def _counts(books: Books) -> None:
    held: Counter[Pool] = Counter()
    idle: Counter[Pool] = Counter()
    for record in books.records.values():
        (held if record.holders else idle)[record.pool] += record.count
    records = Counter(record.pool for record in books.records.values() if not record.holders)
    slabs = Counter(slab.pool for slab in books.slabs.values() if not slab.held)
    for pool in books.pools.values():
        counted = pool.held, pool.idle, pool.idle_records, pool.idle_slabs
        found = held[pool], idle[pool], records[pool], slabs[pool]
        if counted != found:
            raise InternalError(f"{pool.format.name}: held, idle pages, records and slabs are {found}, not {counted}")


def _slabs(arena: Arena, books: Books) -> None:
    inside: dict[int, set[PageId]] = {index: set() for index in books.slabs}
    for first, record in books.records.items():
        for index in set(map(arena.slab_of, record.pages)):
            inside[index].add(first)
        if {slab.block.page for slab in record.slabs} != set(map(arena.slab_of, record.pages)):
            raise InternalError(f"page {first} is recorded in slabs where it does not lie")
    for index, slab in books.slabs.items():
        held = sum(bool(record.holders) for record in slab.records.values())
        if inside[index] != set(slab.records) or held != slab.held or (slab.oldest is None) != bool(held):
            raise InternalError(f"slab {index} is said to hold {slab.held} of {len(slab.records)} records")
        asked = Counter(priority_of(each.block.hints) for each in slab.records.values() if each.block is not None)
        del asked[DEFAULT_PRIORITY]
        if asked != (slab.priorities or {}) or (not held and slab.priority != priority_of(slab.block.hints)):
            raise InternalError(f"slab {index} has records of priorities {slab.priorities}, not {asked}")


def _published(index: Index, books: Books) -> None:
    for page, record in books.records.items():
        if (record.block is not None) != (page in index):
            raise InternalError(f"page {page} is published according to the index or to its record, not to both")
        if record.block is None and not record.holders:
            raise InternalError(f"page {page} is neither held nor published: it leaks")
    if any(page not in books.records for page in index.pages()):
        raise InternalError("the index names a page that was freed")
