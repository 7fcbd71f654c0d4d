"""The ledger's records: one per page or extent, counts per format, and the contents of every slab."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field

from kvloom.memory.arena import Arena
from kvloom.memory.events import Events
from kvloom.memory.format import PageFormat
from kvloom.policy.events import DEFAULT_PRIORITY, Block, priority_of, with_priority
from kvloom.segment import PageId, Why


@dataclass(slots=True, eq=False)
class Pool:
    """Totals of one format: pages held, pages and records idle, and slabs in which nothing is held."""

    format: PageFormat
    held: int = 0
    idle: int = 0
    idle_records: int = 0
    idle_slabs: int = 0


@dataclass(slots=True, eq=False)
class SlabBook:
    """The contents of a slab. ``records``: the idle ones in the order in which they became so.

    ``block``: the slab as the policy sees it. ``oldest``: while nothing is held, the record that was idle longest at
    the policy's last event about the slab. ``alone``: where a page lies. ``priorities``: the number of published
    records by priority, the default one left out.
    """

    pool: Pool
    block: Block
    held: int = 0
    records: dict[PageId, Record] = field(default_factory=dict)
    oldest: Record | None = None
    alone: tuple[SlabBook, ...] = ()
    priorities: dict[float, int] | None = None

    @property
    def priority(self) -> float:
        """The highest priority of its records, all of which are published while nothing is held."""
        if not self.priorities:
            return DEFAULT_PRIORITY
        highest, others = max(self.priorities), sum(self.priorities.values())
        return max(highest, DEFAULT_PRIORITY) if others < len(self.records) else highest

    def count(self, priority: float, change: int) -> None:
        """More or fewer records have this priority."""
        if priority != DEFAULT_PRIORITY:
            counts = self.priorities = self.priorities or {}
            counts[priority] = counts.get(priority, 0) + change
            if not counts[priority]:
                del counts[priority]


@dataclass(slots=True, eq=False)
class Record:
    """A page, or an extent of ``count`` pages, identified by its first. ``block``: what it is published as.

    ``idle_s``: when the last holder released it. ``extent``: all pages, if the format is recorded in extents.
    ``recoded``: its contents differ from what its tokens' key identifies.
    """

    pool: Pool
    page: PageId
    slabs: tuple[SlabBook, ...]
    holders: list[str]
    extent: array[int] | None = None
    count: int = 1
    block: Block | None = None
    idle_s: float = 0.0
    recoded: bool = False

    @property
    def pages(self) -> Iterable[PageId]:
        return (self.page,) if self.extent is None else map(PageId, self.extent)


class Books:
    """Keeps all counts consistent. Does not know keys, and knows owners only by name.

    ``slab_events``: receives events for slabs as if they were pages, idle while nothing in them is held.
    """

    def __init__(self, arena: Arena, slab_events: Events) -> None:
        self._arena, self._slab_events = arena, slab_events
        self.records: dict[PageId, Record] = {}
        self.pools: dict[PageFormat, Pool] = {}
        self.slabs: dict[int, SlabBook] = {}

    def pool(self, fmt: PageFormat) -> Pool:
        pool = self.pools.get(fmt)
        if pool is None:
            pool = self.pools[fmt] = Pool(fmt)
        return pool

    def open(self, pool: Pool, page: PageId, owner: str, now: float) -> None:
        """Record a page that was just allocated: held by ``owner``."""
        index = self._arena.slab_of(page)
        slab = self.slabs.get(index) or self._open_slab(pool, index, now)
        self._open(Record(pool, page, slab.alone, [owner]), now)

    def open_extent(self, pool: Pool, pages: array[int], owner: str, now: float) -> None:
        """Record the pages of an extent."""
        indices = dict.fromkeys(map(self._arena.slab_of, map(PageId, pages)))
        slabs = tuple([self.slabs.get(index) or self._open_slab(pool, index, now) for index in indices])
        self._open(Record(pool, PageId(pages[0]), slabs, [owner], pages, len(pages)), now)

    def wake(self, record: Record, now: float) -> None:
        """Mark an idle record as held again."""
        pool, count = record.pool, record.count
        pool.held += count
        pool.idle -= count
        pool.idle_records -= 1
        for slab in record.slabs:
            self._use(slab, now)

    def rest(self, record: Record, now: float) -> None:
        """Mark a held record as idle."""
        page, pool, count = record.page, record.pool, record.count
        pool.held -= count
        pool.idle += count
        pool.idle_records += 1
        record.idle_s = now
        for slab in record.slabs:
            del slab.records[page]
            slab.records[page] = record  # at the end
            slab.held -= 1
            if not slab.held:
                self.rank(slab)

    def file(self, record: Record, block: Block | None) -> None:
        """Publish a record as ``block``, or unpublish it."""
        for known, change in ((record.block, -1), (block, 1)):
            if known is not None:
                for slab in record.slabs:
                    slab.count(priority_of(known.hints), change)
        record.block = block
        if not record.holders:
            for slab in record.slabs:
                self._rank_anew(slab)

    def close(self, record: Record, why: Why, now: float) -> None:
        """Forget a record whose pages go back to the arena: a held one that was never published, or an idle one."""
        page, pool, count = record.page, record.pool, record.count
        del self.records[page]
        if record.block is None:
            pool.held -= count
        else:
            pool.idle -= count
            pool.idle_records -= 1
        for slab in record.slabs:
            del slab.records[page]
            if record.block is None:
                slab.held -= 1
            else:
                slab.count(priority_of(record.block.hints), -1)
            if not slab.records:
                self._close_slab(slab, why, now)
            elif record.block is not None:
                self._rank_anew(slab)
            elif not slab.held:
                self.rank(slab)

    def rank(self, slab: SlabBook) -> None:
        """Nothing in a slab is held: to the policy it has been idle since the first of its records was."""
        if slab.oldest is None:
            slab.pool.idle_slabs += 1
        slab.oldest = next(iter(slab.records.values()))
        if slab.priority != priority_of(slab.block.hints):
            slab.block = slab.block._replace(hints=with_priority(slab.priority))
        self._slab_events.idle(slab.block, slab.oldest.idle_s)

    def _open(self, record: Record, now: float) -> None:
        self.records[record.page] = record
        record.pool.held += record.count
        for slab in record.slabs:
            slab.records[record.page] = record
            self._use(slab, now)

    def _rank_anew(self, slab: SlabBook) -> None:
        """If nothing in it is held, and its priority differs from what the policy knows."""
        if not slab.held and slab.priority != priority_of(slab.block.hints):
            self.rank(slab)

    def _use(self, slab: SlabBook, now: float) -> None:
        slab.held += 1
        if slab.oldest is not None:
            slab.oldest = None
            slab.pool.idle_slabs -= 1
            self._slab_events.reused(slab.block, now)

    def _open_slab(self, pool: Pool, index: int, now: float) -> SlabBook:
        block = Block(None, None, PageId(index), pool.format, 0, (), self._arena.slab_bytes)
        slab = self.slabs[index] = SlabBook(pool, block)
        slab.alone = (slab,)
        self._slab_events.stored(block, now)
        return slab

    def _close_slab(self, slab: SlabBook, why: Why, now: float) -> None:
        del self.slabs[slab.block.page]
        if slab.oldest is not None:
            slab.pool.idle_slabs -= 1
        self._slab_events.gone(slab.block, why, now)
