"""``Tiers``: where else KV lies, from the fastest to the slowest, and the threads that fetch it."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from kvloom.arrays import Bytes
from kvloom.engine.stats import TierStats
from kvloom.engine.tiers.background import READERS, Background, Reader, Writer
from kvloom.engine.tiers.choose import first_page_to_load
from kvloom.engine.tiers.load import Arrival, Load, Wanted
from kvloom.engine.tiers.offload import Offload
from kvloom.engine.tiers.write_behind import KeepVictims, WriteBehind, lossy_place
from kvloom.memory.arena import GRAIN_BYTES
from kvloom.memory.tier.base import Fault, Place, StoredPage, Tier
from kvloom.memory.tier.writer import Other
from kvloom.policy.cost import PrefillCost
from kvloom.policy.tier_rate import TierRate
from kvloom.segment import PageId, SpanSet

_PATIENCE = 0.05
"""A load that nothing comes of for this part of the time that computing would take is given up."""

_LEAST_PATIENCE_S = 0.05

_OFFLOAD_PATIENCE_S = 5.0
"""An offload that no page was written of for so long is given up. A disk that syncs what was written before takes its
time."""

_PAGE_BYTES_BESIDE = 8192
"""What a tier may take for a page beside its data: records, whole blocks of a file."""


@dataclass
class Level:
    """A tier as the engine uses it. ``writer``: what brings pages there; ``reader``: what fetches them; ``offloads``:
    what writes pages that are held. ``rate``: of loads; ``offload_rate``: of offloads. ``codec``: in which it has
    pages, which loses something; None: exactly as they were. ``heard_s``: when it last delivered anything.
    """

    tier: Tier
    writer: WriteBehind | KeepVictims
    reader: Reader
    offloads: Writer
    rate: TierRate
    offload_rate: TierRate
    codec: str | None = None
    offloaded_pages: int = 0
    loaded_pages: int = 0
    loaded_bytes: int = 0
    load_seconds: float = 0.0
    passed_over: int = 0
    heard_s: float = 0.0
    faults: Counter[Fault] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._at_work = 0
        self._clears_again = 0

    def begin(self, offload: Offload) -> None:
        """Have pages written."""
        with self._lock:
            self._at_work += 1
        self.offloads.submit(lambda: self._write(offload))

    def clear(self) -> None:
        """Forget all that the tier holds, and what is on its way there."""
        self.writer.clear()
        with self._lock:
            again = self._at_work > 0
            self._clears_again += again
        if again:
            self.offloads.submit(self._clear_again)

    @property
    def is_clearing(self) -> bool:
        """Whether what the tier holds is to be forgotten."""
        return self.writer.is_clearing or self._clears_again > 0

    def stats(self) -> TierStats:
        usage, written = self.tier.usage(), self.writer.written
        return TierStats(
            budget_bytes=usage.budget_bytes,
            used_bytes=usage.used_bytes,
            pages=usage.pages,
            written_pages=written.pages,
            dropped_pages=usage.dropped_pages,
            missed_pages=written.missed,
            offloaded_pages=self.offloaded_pages,
            loaded_pages=self.loaded_pages,
            loaded_bytes=self.loaded_bytes,
            load_seconds=self.load_seconds,
            passed_over=self.passed_over,
            faults={fault.value: count for fault, count in (self.faults + written.faults).items()},
            foreign=dict(usage.foreign),
        )

    def _write(self, offload: Offload) -> None:
        try:
            offload.write()
        finally:
            with self._lock:
                self._at_work -= 1

    def _clear_again(self) -> None:
        """An offload may have written a page after the tier was cleared."""
        try:
            self.tier.clear()
        except Exception:
            self.writer.written.faults[Fault.FAILED] += 1
        with self._lock:
            self._clears_again -= 1


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
            if level.codec is None and level.tier.holds(place) and not level.is_clearing:
                return level.tier
        return None

    def find_lossy(self, place: Place) -> tuple[Tier, Place, str] | None:
        """Who has a copy of a page that is like it, where, and in which codec; None: nobody."""
        for level in self.levels:
            if level.codec is not None and not level.is_clearing:
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

    def expected_s(self, wanted: Iterable[Wanted]) -> float:
        """What loading these takes, as far as is known: tiers are read at once."""
        seconds: defaultdict[str, float] = defaultdict(float)
        for each in wanted:
            seconds[each.tier.name] += self.level(each.tier.name).rate.cost.seconds(each.size)
        return max(seconds.values(), default=0.0)

    def pass_over(self, tiers: Iterable[Tier]) -> None:
        """A sequence computes what these have."""
        for tier in tiers:
            level = self.level(tier.name)
            level.passed_over += 1
            level.rate.passed_over()

    def begin(self, targets: Mapping[Wanted, PageId], computing_s: float) -> Load:
        """Have pages read to where they belong. ``computing_s``: what computing them would take."""
        views = {wanted: self.view(page, wanted.size) for wanted, page in targets.items()}
        patience_s = max(_LEAST_PATIENCE_S * self.background.grain, _PATIENCE * computing_s)
        load = Load(views, patience_s, self.clock, self.background.timer, self.news)
        load.arm()
        for tier in load.tiers:
            self.level(tier.name).reader.read(load)
        return load

    def to_offload(self, pages: int, num_bytes: int) -> Level | None:
        """The fastest that has room for so much, if all else it has gives way; None: none has."""
        wanted = num_bytes + pages * _PAGE_BYTES_BESIDE
        for level in self.levels:
            if level.codec is None and wanted <= level.tier.usage().budget_bytes and not level.is_clearing:
                return level
        return None

    def offload(self, pages: Sequence[StoredPage], level: Level) -> Offload:
        """To write pages that are held until they have left: ``Level.begin`` begins it."""
        return Offload(pages, level.tier, _OFFLOAD_PATIENCE_S, self.clock, self.background.timer, self.news)

    def offloaded(self, offload: Offload, level: Level) -> None:
        """Count what an offload that is over has written, and what that took."""
        level.offloaded_pages += offload.written
        if offload.left:
            level.offload_rate.took(offload.written, offload.num_bytes, offload.heard_s - offload.began_s)
        else:
            level.faults[offload.fault or Fault.SLOW] += 1
            level.offload_rate.took(1, offload.pages[0].data.nbytes, self.clock() - offload.heard_s)

    def view(self, page: PageId, size: int) -> memoryview:
        """A page of the arena."""
        return self.memory.data[page * GRAIN_BYTES : page * GRAIN_BYTES + size]

    def learn(self, arrivals: Sequence[Arrival]) -> None:
        """Count what came, and what it took: several threads read at once."""
        now = self.clock()
        for level in self.levels:
            mine = [each for each in arrivals if each.wanted.tier is level.tier]
            level.heard_s = now if mine else level.heard_s
            level.faults.update(each.fault for each in mine if each.fault is not None)
            came = [each for each in mine if each.fault is None]
            if came:
                size, seconds = sum(each.wanted.size for each in came), sum(each.seconds for each in came) / READERS
                level.rate.took(len(came), size, seconds)
                level.loaded_pages += len(came)
                level.loaded_bytes += size
                level.load_seconds += seconds

    def heard_s(self, load: Load) -> float:
        """When a load last showed that something comes of it: as long as it waits for its turn, when its tiers did."""
        return max(load.heard_s, *(0.0 if load.begun else self.level(tier.name).heard_s for tier in load.tiers))

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
            level.clear()

    def stats(self) -> dict[str, TierStats]:
        return {level.tier.name: level.stats() for level in self.levels}

    def close(self, seconds: float) -> None:
        """Write what waits, for at most so long. Nothing is fetched or kept from now on."""
        self.flush(seconds)
        for level in self.levels:
            level.tier.close()
        self.levels = ()
