"""Warm RAM: pages in an arena of their own.

The same bytes as in the engine's arena, or the same entries in a smaller format, and slower only by a copy. What this
tier is for: pages that the engine's arena has no room for and that are of no use to any request now, in memory that
kernels never look at.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from kvloom.arrays import Bytes
from kvloom.errors import ConfigError
from kvloom.memory.arena import GRAIN_BYTES, Arena, fitting_slab_bytes, slab_cost
from kvloom.memory.format import PageFormat
from kvloom.memory.tier.base import Fault, Place, StoredPage, TierFault, TierUsage
from kvloom.memory.tier.page_header import payload_digest
from kvloom.memory.tier.shelf import Record, Shelf
from kvloom.memory.tier.writer import Other
from kvloom.segment import PageId

_SLAB_BYTES = 2 * 2**20
_LEAST_SLABS = 16
"""With fewer, formats that share the budget would take it from each other in large steps."""


@dataclass(slots=True, eq=False, kw_only=True)
class WarmRecord(Record):
    page: PageId
    tokens: tuple[int, ...]
    digest: bytes


class WarmTier:
    """A tier in anonymous memory that is reserved once.

    Parameters
    ----------
    budget_bytes:
        Hard: slabs in use and what the arena charges for the records of their pages. Raises ConfigError if there is
        no room for one page of each format.
    formats:
        By layer group. Pages of different sizes share the budget, in slabs (``memory.arena``).
    name:
        There may be several, such as one for pages in another format.
    """

    def __init__(self, budget_bytes: int, formats: Sequence[PageFormat], name: str = "warm") -> None:
        wanted = min(_SLAB_BYTES, budget_bytes // _LEAST_SLABS // 4096 * 4096)
        slab_bytes = fitting_slab_bytes(formats, max(4096, wanted))
        least = max(slab_cost(fmt, slab_bytes) for fmt in formats)
        if budget_bytes < least:
            raise ConfigError(
                f"{budget_bytes} bytes of warm memory cannot hold a page",
                hint=f"give at least {least} bytes, or none",
            )
        self.name = name
        self._formats = tuple(formats)
        self._arena = Arena(budget_bytes, slab_bytes)
        self._shelf: Shelf[WarmRecord] = Shelf()
        self._lock = threading.Lock()
        self._dropped = 0
        self._closed = False

    def holds(self, place: Place) -> bool:
        return place in self._shelf

    def write(self, page: StoredPage) -> None:
        fmt = self._format_of(page.place, page.data.nbytes)
        digest = payload_digest(page.data)
        with self._lock:
            if self._shelf.use(page.place) is not None or self._shelf.is_coming(page.place):
                return
            record = WarmRecord(page.place, page=self._allocate(fmt), tokens=page.tokens, digest=digest)
            self._shelf.begin(record)
        np.copyto(self._bytes(record.page, fmt), np.frombuffer(page.data, np.uint8))
        with self._lock:
            if self._shelf.expects(record):
                self._shelf.finish(record)
            else:
                self._arena.free(record.page)

    def read(self, place: Place, tokens: tuple[int, ...], into: memoryview) -> None:
        fmt = self._format_of(place, into.nbytes)
        with self._lock:
            record = self._shelf.pin(place)
        if record is None:
            raise TierFault(Fault.GONE, "the page is not in warm memory any more")
        try:
            if record.tokens != tokens:
                raise TierFault(Fault.DIFFERS, "the page is of other tokens")
            np.copyto(np.frombuffer(into, np.uint8), self._bytes(record.page, fmt))
            if payload_digest(into) != record.digest:
                self._forget(record)
                raise TierFault(Fault.CORRUPT, "the page's bytes in memory are not those that were written")
        finally:
            self._leave(record)

    def clear(self) -> None:
        with self._lock:
            for record in self._shelf.clear():
                self._arena.free(record.page)
            self._arena.trim()

    def usage(self) -> TierUsage:
        return TierUsage(self._arena.budget_bytes, self._arena.used_bytes, len(self._shelf), self._dropped)

    def other_writers(self) -> Sequence[Other]:
        return ()

    def close(self) -> None:
        """The system may have the memory back at once; the addresses go with the tier itself, as somebody may still
        be reading."""
        self._closed = True
        self.clear()

    def damage(self, place: Place, damage: Callable[[bytes], bytes]) -> None:
        """See ``faulty``. Pages here all have their size: what would be missing is zero."""
        with self._lock:
            record = self._shelf.pin(place)
        if record is not None:
            page = self._bytes(record.page, self._formats[place.group])
            page[:] = np.frombuffer(damage(page.tobytes()).ljust(page.nbytes, b"\0"), np.uint8)
            self._leave(record)

    def check(self) -> None:
        """Audit the arena. Raises InternalError."""
        with self._lock:
            self._arena.check()

    def _allocate(self, fmt: PageFormat) -> PageId:
        """Drop least recently used pages, of any format, until there is room. The lock is held. Raises TierFault."""
        while not self._closed:
            page = self._arena.allocate(fmt)
            if page is not None:
                return page
            oldest = self._shelf.oldest()
            if oldest is None:
                raise TierFault(Fault.FULL, "all of warm memory is being read or written")
            self._shelf.remove(oldest)
            self._arena.free(oldest.page)
            self._dropped += 1
        raise TierFault(Fault.FAILED, "warm memory was closed")

    def _forget(self, record: WarmRecord) -> None:
        """Of a page that its caller is reading."""
        with self._lock:
            self._shelf.remove(record)

    def _leave(self, record: WarmRecord) -> None:
        with self._lock:
            if self._shelf.unpin(record):
                self._arena.free(record.page)

    def _format_of(self, place: Place, num_bytes: int) -> PageFormat:
        fmt = self._formats[place.group] if place.group < len(self._formats) else None
        if fmt is None or num_bytes != fmt.page_bytes:
            raise TierFault(Fault.DIFFERS, f"{num_bytes} bytes are not a page of layer group {place.group}")
        return fmt

    def _bytes(self, page: PageId, fmt: PageFormat) -> Bytes:
        start = page * GRAIN_BYTES
        return self._arena.memory[start : start + fmt.page_bytes]
