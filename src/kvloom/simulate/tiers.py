"""Tiers in a simulation: stores of bytes that are not there, read in time that passes by their costs.

Everything that decides is the engine's own. What is simplified: writing takes no time, so a page that becomes idle is
there at once; and a tier on disk is charged for pages as this one is, not for blocks of a file system.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from kvloom.engine.tiers.alarm import Timer
from kvloom.engine.tiers.background import READERS, Reader, Writer
from kvloom.engine.tiers.load import Load, Wanted
from kvloom.errors import ConfigError
from kvloom.memory.arena import PAGE_METADATA_BYTES
from kvloom.memory.format import PageFormat
from kvloom.memory.tier.base import Fault, Place, StoredPage, Tier, TierFault, TierUsage
from kvloom.memory.tier.shelf import Record, Shelf
from kvloom.memory.tier.writer import Other
from kvloom.policy.tier_cost import TierCost
from kvloom.simulate.clock import SimulatedClock


class SimulatedTier:
    """Knows which pages it would have: the least recently used go when there is no room. Raises ConfigError if there is
    none for a single page of each of ``formats``, by layer group.
    """

    def __init__(self, name: str, budget_bytes: int, formats: Sequence[PageFormat]) -> None:
        self.name = name
        self._sizes = [fmt.page_bytes + PAGE_METADATA_BYTES for fmt in formats]
        self._budget_bytes, self._used_bytes, self._dropped = budget_bytes, 0, 0
        self._shelf: Shelf[Record] = Shelf()
        if budget_bytes < max(self._sizes):
            raise ConfigError(f"{budget_bytes} bytes in a {name} tier cannot hold a page of {max(self._sizes)}")

    def holds(self, place: Place) -> bool:
        return place in self._shelf

    def write(self, page: StoredPage) -> None:
        if self._shelf.use(page.place) is not None:
            return
        self._used_bytes += self._sizes[page.place.group]
        while self._used_bytes > self._budget_bytes:
            oldest = self._shelf.oldest()
            assert oldest is not None
            self._forget(oldest)
            self._dropped += 1
        record = Record(page.place)
        self._shelf.begin(record)
        self._shelf.finish(record)

    def read(self, place: Place, tokens: tuple[int, ...], into: memoryview) -> None:
        if self._shelf.use(place) is None:
            raise TierFault(Fault.GONE, "the page is not there any more")

    def clear(self) -> None:
        self._shelf.clear()
        self._used_bytes = 0

    def usage(self) -> TierUsage:
        return TierUsage(self._budget_bytes, self._used_bytes, len(self._shelf), self._dropped)

    def other_writers(self) -> Sequence[Other]:
        return ()

    def close(self) -> None:
        self.clear()

    def _forget(self, record: Record) -> None:
        self._shelf.remove(record)
        self._used_bytes -= self._sizes[record.place.group]


@dataclass(frozen=True, slots=True)
class SimulatedBackground:
    """``costs``: of reading a page, by tier."""

    clock: SimulatedClock
    costs: Mapping[str, TierCost]
    grain: int = 1

    def writer(self, tier: Tier) -> Writer:
        return _AtOnce()

    def reader(self, tier: Tier) -> Reader:
        return _Reader(tier, self.costs[tier.name], self.clock)

    def offloads(self, tier: Tier) -> Writer:
        return _AtOnce()

    def timer(self, seconds: float, call: Callable[[], None]) -> Timer:
        return self.clock.after(seconds, call)


class _AtOnce:
    def submit(self, work: Callable[[], None]) -> None:
        work()


@dataclass(slots=True)
class _Reader:
    """One page after another, each in the time that it takes when nothing else is read."""

    tier: Tier
    cost: TierCost
    clock: SimulatedClock
    _loads: deque[Load] = field(default_factory=deque)
    _reads: bool = False

    def read(self, load: Load) -> None:
        self._loads.append(load)
        if not self._reads:
            self._next()

    def _next(self) -> None:
        """Begin with the next page that is still wanted."""
        self._reads = False
        while self._loads and not self._reads:
            load = self._loads[0]
            if (wanted := load.next_from(self.tier)) is None:
                self._loads.popleft()
            else:
                self._begin(load, wanted)

    def _begin(self, load: Load, wanted: Wanted) -> None:
        seconds, self._reads = self.cost.seconds(wanted.size), True

        def end() -> None:
            staging = memoryview(bytearray(load.targets[wanted].nbytes))  # none where memory is simulated
            load.read(wanted, staging, seconds * READERS)  # several read at once, and each takes longer
            self._next()

        self.clock.after(seconds, end)
