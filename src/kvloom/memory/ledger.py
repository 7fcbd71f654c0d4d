"""The ledger: the only thing that gives out, keeps, shares and drops pages, and that accounts for every byte of them.

A page is in exactly one state:

    free      no record here
    held      some sequences hold it (each holder is named); it may be published as well
    cached    nobody holds it, but it is published in the index: droppable, and it can be held again
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from kvloom.errors import InternalError
from kvloom.memory.arena import Arena, page_stride
from kvloom.memory.format import PageFormat
from kvloom.memory.index import Index
from kvloom.policy.actions import Drop
from kvloom.policy.retention.base import Candidate, Retention
from kvloom.segment import PageId, PageKey, Why


@dataclass(slots=True)
class _Record:
    format: PageFormat
    position: int
    holders: list[str]


@dataclass(frozen=True, slots=True)
class Identity:
    """What a page is published as: ``tokens`` at ``position`` after ``parent``, for layer group ``group``."""

    parent: PageKey
    tokens: Sequence[int]
    position: int
    content: int
    group: int


@dataclass(frozen=True, slots=True)
class NoFit:
    """The pages asked for do not fit, even if everything droppable went. Capacity is a result, not an exception."""

    missing_bytes: int


@dataclass
class Ledger:
    """Accounts for one arena. ``retention`` proposes what to drop when room is needed; ``clock`` gives seconds.

    ``changes`` counts what may have made room or made something findable: as long as it stands still, what did not fit
    does not fit.
    """

    arena: Arena
    index: Index
    retention: Retention
    clock: Callable[[], float] = time.monotonic
    evicted_pages: int = 0
    changes: int = 0
    _records: dict[PageId, _Record] = field(default_factory=dict)
    _cached: Counter[PageFormat] = field(default_factory=Counter)
    _held: Counter[PageFormat] = field(default_factory=Counter)
    _held_in_slab: Counter[int] = field(default_factory=Counter)

    # -- taking and giving back ------------------------------------------------------------------------------------

    def allocate(self, fmt: PageFormat, position: int, owner: str) -> PageId | None:
        """Take a page for ``owner``, dropping cached pages if need be; None when all that is left is held."""
        while (page := self.arena.allocate(fmt)) is None:
            if not self._make_room(fmt):
                return None
        self._records[page] = _Record(fmt, position, [owner])
        self._held[fmt] += 1
        self._held_in_slab[self.arena.slab_of(page)] += 1
        return page

    def hold(self, page: PageId, owner: str) -> None:
        """Share a held page, or bring a cached one back into use."""
        record = self._records[page]
        if not record.holders:
            self.retention.withdraw(page)
            self._cached[record.format] -= 1
            self._held[record.format] += 1
            self._held_in_slab[self.arena.slab_of(page)] += 1
        record.holders.append(owner)

    def release(self, pages: Iterable[PageId], owner: str) -> None:
        """``owner`` lets go. Published pages stay cached, others are free at once. One time stamp for all."""
        now, self.changes = self.clock(), self.changes + 1
        for page in pages:
            record = self._records[page]
            record.holders.remove(owner)
            if record.holders:
                continue
            self._held[record.format] -= 1
            self._held_in_slab[self.arena.slab_of(page)] -= 1
            if page in self.index:
                self._cached[record.format] += 1
                fmt = record.format
                self.retention.admit(Candidate(page, fmt.name, record.position, page_stride(fmt), now))
            else:
                self._free(page)

    def abandon(self, owner: str) -> None:
        """Take from ``owner`` all that it holds, known to its page tables or not: something failed on the way."""
        held = [page for page, record in self._records.items() for each in record.holders if each == owner]
        self.release(sorted(held, key=lambda page: -self._records[page].position), owner)

    def publish(self, page: PageId, identity: Identity) -> PageId:
        """Make a held, complete page findable. Returns the findable page: another one if it was there first."""
        record = self._records[page]
        if not record.holders:
            raise InternalError(f"page {page} is published but nobody holds it")
        it, self.changes = identity, self.changes + 1
        return self.index.add(it.parent, it.tokens, it.position, it.content, it.group, page)

    def apply(self, action: Drop, why: Why = Why.EVICTED) -> None:
        """Carry out a proposal. Raises InternalError when the page is held."""
        record, self.changes = self._records[action.page], self.changes + 1
        if record.holders:
            raise InternalError(f"page {action.page} is held by {record.holders} and cannot be dropped")
        self.retention.withdraw(action.page)
        self._cached[record.format] -= 1
        self.index.forget(action.page, why)
        self._free(action.page)
        if why is Why.EVICTED:
            self.evicted_pages += 1

    def reset(self) -> None:
        """Forget everything published. Held pages stay with their holders, and are free once those let go."""
        for page in list(self.index.pages()):
            if self._records[page].holders:
                self.index.forget(page, Why.RESET)
            else:
                self.apply(Drop(page), Why.RESET)
        self.arena.trim()

    # -- asking ----------------------------------------------------------------------------------------------------

    def holders(self, page: PageId) -> int:
        return len(self._records[page].holders)

    def droppable(self) -> list[PageId]:
        """All cached pages."""
        return [page for page, record in self._records.items() if not record.holders]

    def fits(self, needs: Mapping[PageFormat, int], sparing: Collection[PageId] = ()) -> NoFit | None:
        """None when so many more pages of each format can be had without dropping the cached pages in ``sparing``."""
        spared = Counter(self._records[page].format for page in set(sparing) if not self._records[page].holders)
        short = {
            fmt: count - self.arena.free_pages(fmt) - self._cached[fmt] + spared[fmt] for fmt, count in needs.items()
        }
        idle = self._spare_slabs(short, {self.arena.slab_of(page) for page in sparing})
        wanted = {fmt: -(-count // self.arena.pages_per_slab(fmt)) for fmt, count in short.items() if count > 0}
        slabs = self.arena.free_slabs + idle.total()
        room = self.arena.budget_bytes - self.arena.used_bytes + self._cost_bytes(idle)
        if sum(wanted.values()) <= slabs and self._cost_bytes(wanted) <= room:
            return None
        return NoFit(sum(count * page_stride(fmt) for fmt, count in short.items() if count > 0))

    def bytes_of(self, fmt: PageFormat) -> tuple[int, int]:
        """(held, cached) bytes of one format."""
        return self._held[fmt] * page_stride(fmt), self._cached[fmt] * page_stride(fmt)

    @property
    def held_pages(self) -> int:
        return self._held.total()

    @property
    def cached_pages(self) -> int:
        return self._cached.total()

    @property
    def held_bytes(self) -> int:
        return sum(count * page_stride(fmt) for fmt, count in self._held.items())

    @property
    def cached_bytes(self) -> int:
        return sum(count * page_stride(fmt) for fmt, count in self._cached.items())

    def check(self, holdings: Iterable[tuple[PageId, str]] | None = None) -> None:
        """Audit everything. ``holdings``: all (page, owner) pairs, if the caller knows them. Raises InternalError."""
        self.arena.check()
        self.index.check()
        used = {index: slab.used for index, slab in self.arena.slabs()}
        if Counter(self.arena.slab_of(page) for page in self._records) != Counter(used):
            raise InternalError(f"{len(self._records)} records for {sum(used.values())} allocated pages")
        free = {page for _, slab in self.arena.slabs() for page in slab.free}
        if free & set(self._records):
            raise InternalError("a page is free and recorded at once")
        held = Counter(r.format for r in self._records.values() if r.holders)
        cached = Counter(r.format for r in self._records.values() if not r.holders)
        if held != +self._held or cached != +self._cached:
            raise InternalError(f"held {held} and cached {cached} pages, counted as {self._held} and {self._cached}")
        for page, record in self._records.items():
            if not record.holders and page not in self.index:
                raise InternalError(f"page {page} is neither held nor published: it leaks")
        if any(page not in self._records for page in self.index.pages()):
            raise InternalError("the index names a page that was freed")
        if holdings is not None:
            known = Counter((page, owner) for page, record in self._records.items() for owner in record.holders)
            if known != Counter(holdings):
                raise InternalError("the page tables and the ledger disagree about who holds what")

    # -- inside ----------------------------------------------------------------------------------------------------

    def _free(self, page: PageId) -> None:
        del self._records[page]
        self.arena.free(page)

    def _make_room(self, fmt: PageFormat) -> bool:
        """Drop the least valuable page of this format, or else all of a slab that another format could spare."""
        drop = next(self.retention.propose(fmt.name), None)
        if drop is not None:
            self.apply(drop)
            return True
        for drop in self.retention.propose():
            slab = self.arena.slab_of(drop.page)
            if not self._held_in_slab[slab]:
                for page in [page for page in self._records if self.arena.slab_of(page) == slab]:
                    self.apply(Drop(page))
                return True
        return False

    def _cost_bytes(self, slabs: Mapping[PageFormat, int]) -> int:
        return sum(self.arena.slab_cost_bytes(fmt) * count for fmt, count in slabs.items())

    def _spare_slabs(self, short: Mapping[PageFormat, int], spared: set[int]) -> Counter[PageFormat]:
        """Slabs, by the format they serve now, that hold only cached pages and that their own format does not need."""
        idle = Counter(
            slab.format for index, slab in self.arena.slabs() if not self._held_in_slab[index] and index not in spared
        )
        for fmt, count in short.items():
            idle[fmt] = min(idle[fmt], max(0, -count) // self.arena.pages_per_slab(fmt))
        return idle
