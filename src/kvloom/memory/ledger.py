"""The ledger: the only component that allocates, shares and drops pages, and that accounts for all their bytes.

A page is in exactly one state:

    free      no record here
    held      some sequences hold it (each holder is named); it may be published as well
    idle      not held, but published in the index: it can be dropped, or held again ("cached")

Many small pages that are allocated and freed together form an extent: one record with one list of holders, identified
by its first page, which stands for all of them wherever a page is held, released, published or dropped.
"""

from __future__ import annotations

import time
from array import array
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from kvloom.errors import InternalError
from kvloom.memory import cells
from kvloom.memory.arena import EXTENT_METADATA_BYTES, Arena, page_stride
from kvloom.memory.audit import audit
from kvloom.memory.events import Events, Victims
from kvloom.memory.format import PageFormat
from kvloom.memory.index import Index
from kvloom.memory.occupancy import Occupancy, occupancy
from kvloom.memory.pins import Pins
from kvloom.memory.records import Books, Pool, Record, SlabBook
from kvloom.memory.table import PageTable
from kvloom.policy.actions import Drop, Recode
from kvloom.policy.events import NO_HINTS, Block, Hints, Listener, merged, priority_of
from kvloom.policy.retention.base import Retention
from kvloom.segment import PageId, PageKey, Why


class Identity(NamedTuple):
    """What a page is published as: ``tokens`` at ``position`` after ``parent``, for layer group ``group``.

    ``hints``: its request's hints, for listeners. ``key``: the page's key if known; computing it again would be a third
    of the cost of publishing a page.
    """

    parent: PageKey
    tokens: Sequence[int]
    position: int
    content: int
    group: int
    hints: Hints = NO_HINTS
    key: PageKey | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Extent:
    """Pages of one format that are freed together: int32, in the order in which to fill them, not to be modified."""

    format: PageFormat
    pages: array[int]

    @property
    def page(self) -> PageId:
        """The first page, which identifies the extent to the ledger."""
        return PageId(self.pages[0])


@dataclass
class Ledger:
    """Accounts for one arena. ``retention`` says what to drop when room is needed; ``clock`` gives seconds. Of what is
    idle, ``pin_bytes`` may be pinned.

    The listeners of ``events``, the policy first, receive the lifecycle of everything published.

    ``changes`` counts operations that may have made room or made something findable: while it is constant, what did not
    fit still does not.
    """

    arena: Arena
    index: Index
    retention: Retention
    clock: Callable[[], float] = time.monotonic
    pin_bytes: int = 0
    evicted_pages: int = 0
    changes: int = 0

    def __post_init__(self) -> None:
        self.pins = Pins(self.pin_bytes)
        of_slabs = self.retention.fresh()
        slab_events = Events([of_slabs])
        self.events = Events([self.retention])
        self._books = Books(self.arena, slab_events)
        self._records = self._books.records
        self._victims = Victims(self.retention, self.events)
        self._slab_victims = Victims(of_slabs, slab_events)

    # -- taking and giving back ------------------------------------------------------------------------------------

    def allocate(self, fmt: PageFormat, owner: str) -> PageId | None:
        """Allocate a page for ``owner``, dropping idle pages if necessary; None when all that is left is held.

        For a format that is recorded in extents, it is an extent of one page.
        """
        if fmt.in_extents:
            extent = self.allocate_extent(fmt, 1, owner)
            return None if extent is None else extent.page
        pool, now = self._books.pool(fmt), self.clock()
        while (page := self.arena.allocate(fmt)) is None:
            if not self._make_room(pool, now):
                return None
        self._books.open(pool, page, owner, now)
        return page

    def allocate_recoded(self, fmt: PageFormat, owner: str) -> PageId | None:
        """As ``allocate``, a page for KV that differs from what its tokens' key identifies: it is never published."""
        page = self.allocate(fmt, owner)
        if page is not None:
            self._records[page].recoded = True
        return page

    def allocate_extent(self, fmt: PageFormat, count: int, owner: str) -> Extent | None:
        """Allocate an extent of ``count`` pages, at least one. None, with nothing dropped, if there is no room.

        Raises InternalError for a format whose pages have records of their own.
        """
        if count < 1 or not fmt.in_extents:
            raise InternalError(f"an extent of {count} pages of {fmt.name}")
        if not self.fits({fmt: count}):
            return None
        pool, now = self._books.pool(fmt), self.clock()
        while (pages := self.arena.allocate_extent(fmt, count)) is None:
            if not self._make_room(pool, now):
                raise InternalError(f"{count} pages of {fmt.name} should have fit")
        self._books.open_extent(pool, pages, owner, now)
        return Extent(fmt, pages)

    def hold(self, page: PageId, owner: str, hints: Hints = NO_HINTS) -> None:
        """Share a held page, or reuse an idle one. ``hints``: those of the new holder."""
        record = self._records[page]
        now = self.clock()
        asked = None if record.holders else self.pins.unpin(page)
        if not record.holders:
            self._books.wake(record, now)
        record.holders.append(owner)
        if asked is not None:
            self._books.file(record, asked)
        if record.block is not None:
            self._hint(record, record.block, hints)
            self.events.reused(record.block, now)

    def release(self, pages: Iterable[PageId], owner: str) -> None:
        """Release ``owner``'s hold. Published pages become idle, others free. One time stamp for all."""
        now, self.changes = self.clock(), self.changes + 1
        for page in pages:
            record = self._records[page]
            record.holders.remove(owner)
            if record.holders:
                continue
            if record.block is None:
                self._close(record, Why.NEW, now)
            else:
                self._rest(record, record.block, now)

    def abandon(self, pages: Iterable[PageId], owner: str) -> None:
        """Release all holds that ``owner`` has on ``pages``, however many: used after a failure."""
        there = [(page, record) for page in dict.fromkeys(pages) if (record := self._records.get(page)) is not None]
        self.release([page for page, record in there for each in record.holders if each == owner], owner)

    def publish(self, page: PageId, identity: Identity) -> PageId:
        """Make a held, complete page findable. Returns the findable page: an identical one if that was published first.

        A recoded page does not match its tokens' key and stays private to its holders. A page that is already published
        keeps its identity: if it has grown since, only its earlier contents are found.
        """
        record = self._records[page]
        if not record.holders:
            raise InternalError(f"page {page} is published but nobody holds it")
        if record.recoded or record.block is not None:
            return page
        it, self.changes = identity, self.changes + 1
        findable = self.index.add(it.parent, it.tokens, it.position, it.content, it.group, page, it.key)
        if findable == page:
            entry, fmt = self.index.entry_of(page), record.pool.format
            size = record.count * page_stride(fmt)
            block = Block(entry.key, it.parent, page, fmt, it.position, entry.tokens, size, it.hints)
            self._books.file(record, block)
            self.events.stored(block, self.clock())
        else:
            twin = self._records[findable]
            assert twin.block is not None
            self._hint(twin, twin.block, it.hints)
        return findable

    def apply(self, action: Drop, why: Why = Why.EVICTED) -> None:
        """Carry out a proposal. Raises InternalError when there is no such page, or when it is held."""
        record = self._records.get(action.page)
        if record is None:
            raise InternalError(f"page {action.page} cannot be dropped: it is not in use")
        if record.holders or record.block is None:
            raise InternalError(f"page {action.page} is held by {record.holders} and cannot be dropped")
        block, now, self.changes = record.block, self.clock(), self.changes + 1
        self.index.forget(block.page, why)
        self._close(record, why, now)
        self.events.gone(block, why, now)
        pinned = self.pins.unpin(block.page)
        if why is Why.EVICTED:
            self.evicted_pages += record.count
            self.pins.broken_bytes += 0 if pinned is None else block.size_bytes

    def recode(self, action: Recode, tables: Mapping[str, PageTable]) -> PageId | None:
        """Carry out a proposal. Returns the holders' new page, already in their ``tables``; None: no room.

        ``tables``: by holder, the one that contains the page. Raises InternalError, with nothing changed, unless every
        holder has it there, full and sealed, and it is a page with a record of its own.
        """
        record = self._records.get(action.page)
        if record is None or record.extent is not None:
            raise InternalError(f"page {action.page} cannot be recoded: it is not in use, or part of an extent")
        places = [(holder, *_place_of(action, record, holder, tables)) for holder in action.holders]
        source = record.pool.format
        fmt = source.recoded(action.codec)
        if len(set(action.holders)) != len(places) or not places or fmt == source:
            raise InternalError(f"page {action.page} of {source.codec} cannot be recoded so: {action}")
        if page_stride(fmt) > self.arena.slab_bytes:
            return None
        first = action.holders[0]
        page = self.allocate_recoded(fmt, first)
        if page is None:
            return None
        try:
            cells.recode(self.arena.memory, source, action.page, fmt, page)
        except BaseException:
            self.release([page], first)
            raise
        for holder, table, index in places:
            if holder != first:
                self.hold(page, holder)
            table.put(index, page, filled=table.filled[index], writable=False, format=fmt)
            self.release([action.page], holder)
        return page

    def reset(self) -> None:
        """Unpublish everything. Held pages stay with their holders, and become free when released."""
        for page in list(self.index.pages()):
            record = self._records[page]
            if not record.holders:
                self.apply(Drop(page), Why.RESET)
            elif record.block is not None:
                self.index.forget(page, Why.RESET)
                block = record.block
                self._books.file(record, None)
                self.events.gone(block, Why.RESET, self.clock())
        self.arena.trim()

    def end_pins(self, now: float) -> None:
        """End those whose time is up."""
        for block in self.pins.over(now):
            self._file_idle(self._records[block.page], block)

    def listen(self, listener: Listener) -> None:
        """From now on ``listener`` receives every event; first it is told of what is stored, by position."""
        blocks = [record.block for record in self._records.values() if record.block is not None]
        now = self.clock()
        for block in sorted(blocks, key=lambda block: block.position):
            listener.stored(block, now)
        self.events.listeners.append(listener)

    # -- asking ----------------------------------------------------------------------------------------------------

    def holders(self, page: PageId) -> int:
        return len(self._records[page].holders)

    def hints_of(self, page: PageId) -> Hints:
        """Of a published page, as its requests gave them."""
        block = self._records[page].block
        return NO_HINTS if block is None else block.hints

    def droppable(self) -> list[PageId]:
        """All idle pages, and of extents the first, in the order in which they became idle."""
        return list(self.events.idle_blocks)

    def fits(self, needs: Mapping[PageFormat, int], sparing: Collection[PageId] = ()) -> bool:
        """Whether that many more pages of each format can be allocated without dropping the idle pages in ``sparing``.

        Pages of a format that is recorded in extents count as one extent.
        """
        spared = [record for page in set(sparing) if not (record := self._records[page]).holders]
        pages, slabs = _by_pool(spared)
        short = {self._books.pool(fmt): count - self.arena.free_pages(fmt) for fmt, count in needs.items()}
        short = {pool: count - pool.idle + pages[pool] for pool, count in short.items()}
        idle = {pool: pool.idle_slabs - slabs[pool] for pool in self._books.pools.values()}
        for pool, count in short.items():  # what its own format does not need
            idle[pool] = min(idle[pool], max(0, -count) // self.arena.pages_per_slab(pool.format))
        wanted = {
            pool: -(-count // self.arena.pages_per_slab(pool.format)) for pool, count in short.items() if count > 0
        }
        room = self.arena.budget_bytes - self.arena.used_bytes + self._cost_bytes(idle)
        spent = self._cost_bytes(wanted) + _extents_bytes(short, Counter(record.pool for record in spared))
        return sum(wanted.values()) <= self.arena.free_slabs + sum(idle.values()) and spent <= room

    def bytes_of(self, fmt: PageFormat) -> tuple[int, int]:
        """(held, idle) bytes of one format."""
        pool = self._books.pool(fmt)
        return pool.held * page_stride(fmt), pool.idle * page_stride(fmt)

    def occupancy(self, most_slabs: int) -> Occupancy:
        """How memory is filled, looking at ``most_slabs`` slabs at most."""
        return occupancy(self.arena, self._books, most_slabs)

    @property
    def held_pages(self) -> int:
        return sum(pool.held for pool in self._books.pools.values())

    @property
    def cached_pages(self) -> int:
        return sum(pool.idle for pool in self._books.pools.values())

    @property
    def held_bytes(self) -> int:
        return sum(pool.held * page_stride(pool.format) for pool in self._books.pools.values())

    @property
    def cached_bytes(self) -> int:
        return sum(pool.idle * page_stride(pool.format) for pool in self._books.pools.values())

    def check(self, holdings: Iterable[tuple[PageId, str]] | None = None) -> None:
        """Audit everything. ``holdings``: all (page, owner) pairs, if the caller knows them. Raises InternalError."""
        self.arena.check()
        self.index.check()
        audit(self.arena, self.index, self._books, holdings)
        self._victims.check({page for page, record in self._records.items() if not record.holders})
        self.pins.check(self.events.idle_blocks)
        self._slab_victims.check({slab.block.page for slab in self._books.slabs.values() if not slab.held})

    # -- inside ----------------------------------------------------------------------------------------------------

    def _rest(self, record: Record, block: Block, now: float) -> None:
        """The last holder of ``block`` has released it."""
        if "pin_s" in block.hints:
            self.end_pins(now)
            block = self.pins.pin(block, now, now)
            self._books.file(record, block)
        self._books.rest(record, now)
        self.events.idle(block, now)

    def _hint(self, record: Record, block: Block, hints: Hints) -> None:
        """Merge another request's hints into those of the published ``block``."""
        block = self.pins.asked(block)
        if hints is block.hints or (together := merged(block.hints, hints)) == block.hints:
            return
        block = block._replace(hints=together)
        if record.holders:
            self._books.file(record, block)
        else:
            self.pins.unpin(block.page)
            self._file_idle(record, self.pins.pin(block, record.idle_s, self.clock()))

    def _file_idle(self, record: Record, block: Block) -> None:
        """With other hints than before: its place in the policy's order changes."""
        self._books.file(record, block)
        self.events.idle(block, record.idle_s)

    def _close(self, record: Record, why: Why, now: float) -> None:
        self._books.close(record, why, now)
        if record.extent is None:
            self.arena.free(record.page)
        else:
            self.arena.free_extent(record.extent)

    def _make_room(self, pool: Pool, now: float) -> bool:
        """Drop the least valuable page of a pool, or else all of a slab that another one could spare.

        Extents and pages compete: of one kind that has long been idle a slab goes first, so that neither holds memory
        that it was given once for good.
        """
        self.end_pins(now)
        if not pool.idle:
            return self._drop_slab(self._first_slab(now))
        page = self._victims.first(pool.format, now)
        assert page is not None
        slab = self._first_slab(now) if self._competes(pool) else None
        if slab is not None and slab.pool.format.in_extents != pool.format.in_extents:
            record = self._records[page]
            assert record.block is not None
            assert slab.oldest is not None
            if (slab.priority, slab.oldest.idle_s) < (priority_of(record.block.hints), record.idle_s):
                return self._drop_slab(slab)
        self.apply(Drop(page))
        return True

    def _competes(self, pool: Pool) -> bool:
        """Whether the other kind, extents or pages, has a slab that could be spared."""
        mine = pool.format.in_extents
        return any(other.idle_slabs and other.format.in_extents != mine for other in self._books.pools.values())

    def _first_slab(self, now: float) -> SlabBook | None:
        """The slab to drop first; None when none is idle."""
        while (index := self._slab_victims.first(None, now)) is not None:
            slab = self._books.slabs[index]
            if slab.oldest is next(iter(slab.records.values())):
                return slab
            self._books.rank(slab)  # its oldest page was dropped meanwhile: it is younger than the policy knows
        return None

    def _drop_slab(self, slab: SlabBook | None) -> bool:
        for page in [] if slab is None else list(slab.records):
            self.apply(Drop(page))
        return slab is not None

    def _cost_bytes(self, slabs: Mapping[Pool, int]) -> int:
        return sum(self.arena.slab_cost_bytes(pool.format) * count for pool, count in slabs.items())


def _place_of(action: Recode, record: Record, holder: str, tables: Mapping[str, PageTable]) -> tuple[PageTable, int]:
    """A holder's index of the page to be recoded."""
    table = tables.get(holder)
    index = None if table is None else table.index_of(action.page)
    if table is None or index is None or record.holders.count(holder) != 1:
        raise InternalError(f"page {action.page} cannot be recoded: {holder} does not have it, once, in that table")
    if not table.is_full(index) or table.writable[index] or table.format_of(index) != record.pool.format:
        raise InternalError(f"page {action.page} cannot be recoded: for {holder} it is not full and sealed")
    return table, index


def _by_pool(records: Iterable[Record]) -> tuple[Counter[Pool], Counter[Pool]]:
    """(pages of these idle records, idle slabs that contain them), by pool."""
    pages: Counter[Pool] = Counter()
    slabs: set[SlabBook] = set()
    for record in records:
        pages[record.pool] += record.count
        slabs.update(slab for slab in record.slabs if not slab.held)
    return pages, Counter(slab.pool for slab in slabs)


def _extents_bytes(pools: Iterable[Pool], spared: Mapping[Pool, int]) -> int:
    """What one more extent of each pool recorded in extents costs, minus what dropping the idle ones would free."""
    mine = [pool for pool in pools if pool.format.in_extents]
    return sum(EXTENT_METADATA_BYTES * (1 - pool.idle_records + spared[pool]) for pool in mine)
