"""A tier of the simplest kind, for tests of what the engine does with tiers: a dictionary, and faults on demand."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from kvloom.memory.tier.base import Fault, Place, StoredPage, TierFault, TierUsage


def nothing(place: Place) -> None:
    """No fault."""


@dataclass
class DictTier:
    """``before_read``, ``before_write``: called with the place by whoever reads or writes; may raise, or wait."""

    name: str = "disk"
    before_read: Callable[[Place], None] = nothing
    before_write: Callable[[Place], None] = nothing
    pages: dict[Place, StoredPage] = field(default_factory=dict)
    reads: list[Place] = field(default_factory=list)
    closed: bool = False

    def __post_init__(self) -> None:
        self.lock = threading.Lock()

    def holds(self, place: Place) -> bool:
        return place in self.pages

    def write(self, page: StoredPage) -> None:
        self.before_write(page.place)
        with self.lock:
            kept = StoredPage(page.place, page.parent, page.position, page.tokens, memoryview(bytes(page.data)))
            self.pages[page.place] = kept

    def read(self, place: Place, tokens: tuple[int, ...], into: memoryview) -> None:
        self.before_read(place)
        with self.lock:
            self.reads.append(place)
            page = self.pages.get(place)
        if page is None:
            raise TierFault(Fault.GONE, "it is not there")
        if page.tokens != tokens or len(into) != len(page.data):
            raise TierFault(Fault.DIFFERS, "it is another page")
        into[:] = page.data

    def clear(self) -> None:
        with self.lock:
            self.pages.clear()

    def usage(self) -> TierUsage:
        used = sum(len(page.data) for page in self.pages.values())
        return TierUsage(2**30, used, len(self.pages), 0)

    def other_writers(self) -> tuple[()]:
        return ()

    def close(self) -> None:
        self.closed = True
