"""What goes to a tier, and when: behind the engine's back, or as a page leaves RAM.

Published pages never change, so a page that is published before and after it was copied was copied whole: the writing
thread needs neither a hold on it, which would keep it from being dropped, nor the engine's time.
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from kvloom.arrays import Bytes
from kvloom.engine.tiers.background import Writer
from kvloom.memory.arena import GRAIN_BYTES
from kvloom.memory.cells import recoded
from kvloom.memory.format import PAGE_TOKENS, PageFormat
from kvloom.memory.keys import lossy_key
from kvloom.memory.tier.base import Fault, Place, StoredPage, Tier, TierFault
from kvloom.policy.events import Block, Format, Heedless
from kvloom.segment import PageId, Why


@dataclass
class Written:
    """Totals of a tier. ``missed``: pages that were dropped before their turn. ``faults``: by kind."""

    pages: int = 0
    missed: int = 0
    faults: Counter[Fault] = field(default_factory=Counter)


@dataclass(frozen=True)
class Source:
    """Where pages are read from: the arena's ``memory``. ``groups``: the layer group of each format of whole pages."""

    memory: Bytes
    groups: Mapping[Format, int]

    def place(self, block: Block) -> Place | None:
        """Under which a block is kept; None: it is not. No lists are, and of unfinished pages only those that end a
        chunk: others have grown when they are asked for.
        """
        group = self.groups.get(block.format)
        whole = len(block.tokens) == PAGE_TOKENS or "chunk" in block.hints
        return Place(block.key, group) if group is not None and block.key is not None and whole else None

    def view(self, block: Block) -> memoryview:
        assert isinstance(block.format, PageFormat)
        start = block.page * GRAIN_BYTES
        return self.memory.data[start : start + block.format.page_bytes]

    def page(self, place: Place, block: Block, data: memoryview) -> StoredPage:
        """What a tier keeps of a block whose bytes are ``data``."""
        assert block.parent is not None
        return StoredPage(place, block.parent, block.position, tuple(block.tokens), data)


@dataclass(frozen=True)
class LossySource(Source):
    """The same pages in a smaller ``codec``, under keys that no exact look-up has."""

    codec: str

    def place(self, block: Block) -> Place | None:
        exact = super().place(block)
        return lossy_place(exact, self.codec) if exact is not None and len(block.tokens) == PAGE_TOKENS else None

    def page(self, place: Place, block: Block, data: memoryview) -> StoredPage:
        assert isinstance(block.format, PageFormat)
        recoded_B = recoded(np.frombuffer(data, np.uint8), block.format, block.format.recoded(self.codec))
        return super().page(place, block, recoded_B.data)


def lossy_place(exact: Place, codec: str) -> Place:
    """Where a page's copy in a codec that loses something is kept."""
    return Place(lossy_key(exact.key, codec), exact.group)


class WriteBehind(Heedless):
    """A listener that copies every page to ``tier`` once nobody uses it any more, in a thread of its own, or whatever
    ``threads`` stand for.

    A page that is dropped before its turn is missed, and counted: nothing waits for a tier.
    """

    def __init__(self, tier: Tier, source: Source, threads: Writer) -> None:
        self.tier, self.written = tier, Written()
        self._source = source
        self._threads = threads
        self._lock = threading.Lock()
        self._done = threading.Condition(self._lock)
        self._queue: OrderedDict[PageId, tuple[Place, Block]] = OrderedDict()
        self._at_work = False
        self._clears = 0
        self._copied: PageId | None = None

    # -- events, on the engine's thread ----------------------------------------------------------------------------

    def idle(self, block: Block, now: float) -> None:
        place = self._source.place(block)
        if place is None or (self.tier.holds(place) and not self._clears):
            return
        with self._lock:
            self._queue[block.page] = place, block
            begin, self._at_work = not self._at_work, True
        if begin:
            self._threads.submit(self._work)

    def gone(self, block: Block, why: Why, now: float) -> None:
        with self._lock:
            missed = self._queue.pop(block.page, None) is not None
            if self._copied == block.page:
                self._copied, missed = None, True
            self.written.missed += missed

    # -- for the engine --------------------------------------------------------------------------------------------

    def flush(self, seconds: float) -> bool:
        """Wait until everything is written, at most so long. False: not everything is."""
        with self._lock:
            return self._done.wait_for(lambda: not (self._at_work or self._clears), seconds)

    def clear(self) -> None:
        """Forget what waits, and everything that the tier holds: that takes time, until which it ``is_clearing``."""
        with self._lock:
            self._queue.clear()
            self._copied = None
            self._clears += 1
        self._threads.submit(self._clear)

    @property
    def is_clearing(self) -> bool:
        """Whether what the tier holds is to be forgotten."""
        return self._clears > 0

    # -- on the writing thread -------------------------------------------------------------------------------------

    def _work(self) -> None:
        while (taken := self._take()) is not None:
            place, block = taken
            data = bytes(self._source.view(block))
            with self._lock:
                whole, self._copied = self._copied == block.page, None
            if whole:
                _write(self.tier, self._source.page(place, block, memoryview(data)), self.written)

    def _clear(self) -> None:
        try:
            self.tier.clear()
        except Exception:
            self.written.faults[Fault.FAILED] += 1
        with self._lock:
            self._clears -= 1
            self._done.notify_all()

    def _take(self) -> tuple[Place, Block] | None:
        with self._lock:
            if not self._queue:
                self._at_work = False
                self._done.notify_all()
                return None
            page, taken = self._queue.popitem(last=False)
            self._copied = page
            return taken


class KeepVictims(Heedless):
    """A listener that copies every page to ``tier`` as it is dropped to make room: for a tier that takes no time."""

    def __init__(self, tier: Tier, source: Source, threads: Writer) -> None:
        self.tier, self.written = tier, Written()
        self._source = source

    def gone(self, block: Block, why: Why, now: float) -> None:
        """Its bytes are still there: nothing is allocated before all listeners have been told."""
        place = self._source.place(block) if why is Why.EVICTED else None
        if place is not None:
            _write(self.tier, self._source.page(place, block, self._source.view(block)), self.written)

    def flush(self, seconds: float) -> bool:
        return True

    def clear(self) -> None:
        self.tier.clear()

    @property
    def is_clearing(self) -> bool:
        return False


def _write(tier: Tier, page: StoredPage, written: Written) -> None:
    try:
        tier.write(page)
        written.pages += 1
    except TierFault as fault:
        written.faults[fault.fault] += 1
    except Exception:
        written.faults[Fault.FAILED] += 1
