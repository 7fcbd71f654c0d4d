"""A load: pages on their way from tiers to one sequence."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from kvloom.engine.tiers.alarm import Alarm, BeginTimer
from kvloom.memory.format import PAGE_TOKENS
from kvloom.memory.tier.base import Fault, Place, Tier, TierFault
from kvloom.segment import Span, SpanSet


@dataclass(frozen=True, slots=True, eq=False)
class Wanted:
    """Page ``index`` of a layer group, which a tier holds and RAM does not. ``size``: its bytes there. ``codec``: in
    which it has lost something; None: it is exactly what was stored.
    """

    group: int
    index: int
    tier: Tier
    place: Place
    tokens: tuple[int, ...]
    size: int
    codec: str | None = None

    @property
    def span(self) -> Span:
        start = self.index * PAGE_TOKENS
        return Span(start, start + len(self.tokens))


@dataclass(frozen=True, slots=True)
class Arrival:
    """``fault``: why it did not come; None: it lies where it should. ``seconds``: that reading took."""

    wanted: Wanted
    fault: Fault | None
    seconds: float


@dataclass(eq=False)
class Load:
    """``targets``: where each page goes. ``patience_s``: how long it may go without an arrival, by ``clock``.
    ``news``: called from a reading thread, when nothing more will come. ``begun``: its tier reads from it; until then
    it was others' turn.

    What is read is verified in memory of the reading thread, and only then copied to its target: so a load that is
    cancelled never writes a byte again, whatever its tiers do, and its targets can be used for something else at once.
    """

    targets: dict[Wanted, memoryview]
    patience_s: float
    clock: Callable[[], float]
    timer: BeginTimer
    news: Callable[[], None]
    cancelled: bool = field(default=False, init=False)
    begun: bool = field(default=False, init=False)
    began_s: float = field(init=False)
    heard_s: float = field(init=False)

    def __post_init__(self) -> None:
        self.began_s = self.heard_s = self.clock()
        self._lock = threading.Lock()
        self._alarm = Alarm(self.patience_s, self.news, self.timer)
        self._delivered: set[Wanted] = set()
        self._waiting = dict.fromkeys(self.targets)
        self._arrivals: list[Arrival] = []
        self._queues: defaultdict[str, list[Wanted]] = defaultdict(list)
        for wanted in sorted(self.targets, key=lambda each: each.index):  # the last first: it costs most to compute
            self._queues[wanted.tier.name].append(wanted)

    @property
    def tiers(self) -> Iterable[Tier]:
        """Those that it reads from."""
        return {wanted.tier.name: wanted.tier for wanted in self.targets}.values()

    @property
    def over(self) -> bool:
        """Whether nothing more will come."""
        return self.cancelled or len(self._delivered) == len(self.targets)

    def take(self) -> list[Arrival]:
        """What has come since the last call."""
        with self._lock:
            arrivals, self._arrivals = self._arrivals, []
        return arrivals

    def cancel(self) -> list[Wanted]:
        """Nothing is written to any target from now on. Returns the pages of which nothing has been heard."""
        with self._lock:
            self.cancelled = True
            waiting = [wanted for wanted in self.targets if wanted not in self._delivered]
        self.close()
        return waiting

    def arm(self) -> None:
        """See to it that there is news when its patience is at an end, whatever its tiers do."""
        self._alarm.set()

    def close(self) -> None:
        """Nothing more is waited for."""
        self._alarm.stop()

    def heard(self, arrivals: Iterable[Arrival]) -> None:
        """These were taken in."""
        self.heard_s = self.clock()
        for arrival in arrivals:
            if arrival.fault is None:
                del self._waiting[arrival.wanted]

    @property
    def left(self) -> int:
        """How many pages are not there."""
        return len(self._waiting)

    @property
    def waits_for(self) -> SpanSet:
        """Positions of which a page is not there."""
        return SpanSet.of([wanted.span for wanted in self._waiting])

    def read_from(self, tier: Tier) -> None:
        """Read what this tier holds until there is nothing left; for a thread of its own, or for several."""
        staging = bytearray()
        while (wanted := self.next_from(tier)) is not None:
            if len(staging) != wanted.size:
                staging = bytearray(wanted.size)
            self.read(wanted, memoryview(staging))

    def next_from(self, tier: Tier) -> Wanted | None:
        """What is to be read next from a tier; None: nothing. Nobody else gets the same."""
        try:
            wanted = None if self.cancelled else self._queues[tier.name].pop()
        except IndexError:
            return None
        if not self.begun:
            self.began_s = self.heard_s = self.clock()
            self.begun = True
        return wanted

    def read(self, wanted: Wanted, staging: memoryview, seconds: float | None = None) -> None:
        """Read a page into ``staging``, and deliver it. ``seconds``: that it is said to take; None: that it takes."""
        began_s = self.clock()
        fault = _read(wanted, staging)
        took_s = self.clock() - began_s if seconds is None else seconds
        self._deliver(Arrival(wanted, fault, took_s), staging)

    def _deliver(self, arrival: Arrival, data: memoryview) -> None:
        with self._lock:
            if self.cancelled:
                return
            if arrival.fault is None:
                self.targets[arrival.wanted][:] = data
            self._arrivals.append(arrival)
            self._delivered.add(arrival.wanted)
            over = self.over
        if over:
            self.news()


def _read(wanted: Wanted, into: memoryview) -> Fault | None:
    try:
        wanted.tier.read(wanted.place, wanted.tokens, into)
    except TierFault as fault:
        return fault.fault
    except Exception:
        return Fault.FAILED
    return None
