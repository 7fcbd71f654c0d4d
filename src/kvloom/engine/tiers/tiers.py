"""``Tiers``: where else KV lies, from the fastest to the slowest, and the threads that fetch it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from kvloom.arrays import Bytes
from kvloom.engine.stats import TierStats
from kvloom.engine.tiers.background import READERS, Background, Reader
from kvloom.engine.tiers.choose import first_page_to_load
from kvloom.engine.tiers.load import Arrival, Load, Wanted
from kvloom.engine.tiers.write_behind import KeepVictims, WriteBehind, lossy_place
from kvloom.memory.arena import GRAIN_BYTES
from kvloom.memory.tier.base import Fault, Place, Tier
from kvloom.memory.tier.writer import Other
from kvloom.policy.cost import PrefillCost
from kvloom.policy.tier_rate import TierRate
from kvloom.segment import PageId, SpanSet

_PATIENCE = 0.05
"""A load that nothing comes of for this part of the time that computing would take is given up."""

_LEAST_PATIENCE_S = 0.05


@dataclass
class Level:
    """A tier as the engine uses it. ``writer``: what brings pages there; ``reader``: what fetches them. ``codec``: in
    which it has them, which loses something; None: exactly as they were.
    """

    tier: Tier
    writer: WriteBehind | KeepVictims
    reader: Reader
    rate: TierRate
    codec: str | None = None
    loaded_pages: int = 0
    loaded_bytes: int = 0
    load_seconds: float = 0.0
    passed_over: int = 0
    faults: Counter[Fault] = field(default_factory=Counter)

    def stats(self) -> TierStats:
        usage, written = self.tier.usage(), self.writer.written
        return TierStats(
            budget_bytes=usage.budget_bytes,
            used_bytes=usage.used_bytes,
            pages=usage.pages,
            written_pages=written.pages,
            dropped_pages=usage.dropped_pages,
            missed_pages=written.missed,
            loaded_pages=self.loaded_pages,
            loaded_bytes=self.loaded_bytes,
            load_seconds=self.load_seconds,
            passed_over=self.passed_over,
            faults={fault.value: count for fault, count in (self.faults + written.faults).items()},
            foreign=dict(usage.foreign),
        )


@dataclass
class Tiers:
    """``levels``: the fastest first. ``memory``: the arena's. ``news``: interrupts an engine that waits."""

    levels: Sequence[Level]
    memory: Bytes
    clock: Callable[[], float]
    news: Callable[[], None]
    background: Background

    def find(self, place: Place) -> Tier | None:
        """The fastest that has exactly this page; None: none has."""
        for level in self.levels:
            if level.codec is None and level.tier.holds(place) and not level.writer.is_clearing:
                return level.tier
        return None

    def find_lossy(self, place: Place) -> tuple[Tier, Place, str] | None:
        """Who has a copy of a page that is like it, where, and in which codec; None: nobody."""
        for level in self.levels:
            if level.codec is not None and not level.writer.is_clearing:
                lossy = lossy_place(place, level.codec)
                if level.tier.holds(lossy):
                    return level.tier, lossy, level.codec
        return None

    def other_writers(self) -> list[tuple[Tier, Other]]:
        """Who else has written what tiers have, as far as that is known."""
        return [(level.tier, other) for level in self.levels for other in level.tier.other_writers()]

    def choose(self, wanted: Sequence[Wanted], gain: SpanSet, cost: PrefillCost | None) -> list[Wanted]:
        """Those that are worth loading. ``gain``: what need not be computed if all are. ``cost``: None, unknown."""
        if cost is None or not wanted:
            return list(wanted)
        first = first_page_to_load(wanted, gain, cost, {level.tier.name: level.rate.cost for level in self.levels})
        return [] if first is None else [each for each in wanted if each.index >= first]

    def pass_over(self, tiers: Iterable[Tier]) -> None:
        """A sequence computes what these have."""
        for tier in tiers:
            level = self.level(tier.name)
            level.passed_over += 1
            level.rate.passed_over()

    def begin(self, targets: Mapping[Wanted, PageId], computing_s: float) -> Load:
        """Have pages read to where they belong. ``computing_s``: what computing them would take."""
        views = {wanted: self._view(page, wanted.size) for wanted, page in targets.items()}
        patience_s = max(_LEAST_PATIENCE_S * self.background.grain, _PATIENCE * computing_s)
        load = Load(views, patience_s, self.clock, self.background.alarm, self.news)
        load.arm()
        for tier in load.tiers:
            self.level(tier.name).reader.read(load)
        return load

    def learn(self, arrivals: Sequence[Arrival]) -> None:
        """Count what came, and what it took: several threads read at once."""
        for level in self.levels:
            mine = [each for each in arrivals if each.wanted.tier is level.tier]
            level.faults.update(each.fault for each in mine if each.fault is not None)
            came = [each for each in mine if each.fault is None]
            if came:
                size, seconds = sum(each.wanted.size for each in came), sum(each.seconds for each in came) / READERS
                level.rate.took(len(came), size, seconds)
                level.loaded_pages += len(came)
                level.loaded_bytes += size
                level.load_seconds += seconds

    def blame(self, pages: Sequence[Wanted], fault: Fault, seconds: float) -> None:
        """These did not come within ``seconds``."""
        for level in self.levels:
            mine = [each for each in pages if each.tier is level.tier]
            if mine:
                level.faults[fault] += len(mine)
                level.rate.took(1, mine[0].size, seconds)

    def level(self, name: str) -> Level:
        return next(level for level in self.levels if level.tier.name == name)

    def flush(self, seconds: float) -> bool:
        """Wait, at most so long, until all that waits to be written is. False: not all is."""
        until_s = self.clock() + seconds
        flushed = [level.writer.flush(max(0.0, until_s - self.clock())) for level in self.levels]
        return all(flushed)

    def clear(self) -> None:
        """Forget everything, everywhere."""
        for level in self.levels:
            level.writer.clear()

    def stats(self) -> dict[str, TierStats]:
        return {level.tier.name: level.stats() for level in self.levels}

    def close(self, seconds: float) -> None:
        """Write what waits, for at most so long. Nothing is fetched or kept from now on."""
        self.flush(seconds)
        for level in self.levels:
            level.tier.close()
        self.levels = ()

    def _view(self, page: PageId, size: int) -> memoryview:
        return self.memory.data[page * GRAIN_BYTES : page * GRAIN_BYTES + size]
