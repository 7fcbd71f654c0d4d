"""The least expected time of recomputing first: what a block costs, times a proxy for its probability of reuse.

    victim = argmin f(t) dT c      f(t) = min(exp(-idle / alpha), lambda exp(-(idle - offset) / beta))

``dT``: seconds that recomputing the block would add to a prefill; ``idle``: since its last use; ``c``: a factor that is
constant while it is idle. f hardly falls during a lifespan (``life_s``, at whose end it is ``p``) and ``ratio`` times
as fast after it. Either exponential alone orders blocks for good, whatever the time: with the logarithms

    key1 = ln(dT c) + last / alpha,  key2 = ln(dT c) + last / beta      (last: of its last use)

as keys of two ordered structures, the victim is the first of one of them, and the two firsts are compared at the time
of asking. ``lambda`` moves the turning point of all blocks to the mean time to reuse of late, with no key changed.

Source: AsymCache (arXiv 2606.02964), eviction score, order-preserving rule and update of lambda. We differ: keys are
logarithms, so that nothing overflows; heaps stand for balanced trees; the cost model is that of ``policy.cost``; ``c``
is one over the size in bytes unless told otherwise; a lifespan is observed as the idle time that a reuse ends, once
per release, over the last 256 of them, and lambda follows every 16.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable, Set
from dataclasses import dataclass

from kvloom.policy.cost import PrefillCost
from kvloom.policy.events import Block, Format, priority_of
from kvloom.policy.retention.worth import recompute_seconds
from kvloom.segment import PageId, Why

Multiplier = Callable[[Block, int], float]
"""The factor of a block that was used so many times, its creation included: positive, constant while it is idle."""

_OBSERVED = 256
_UPDATE_EVERY = 16
_MOST_WAITING = 8
"""Cohorts whose blocks are still being released: no more are left for the next victim to place."""


def per_byte(block: Block, uses: int) -> float:
    return 1 / block.size_bytes


def per_byte_and_use(block: Block, uses: int) -> float:
    """What many share is cheap, near the beginning as it is, and would be dropped for that."""
    return uses / block.size_bytes


@dataclass(frozen=True, slots=True)
class Lifespan:
    """The shape of f. ``life_s``: the turning point; ``p``: f there; ``ratio``: alpha to beta.

    ``life_s`` also sets how fast f falls after it, which lambda does not change. The paper takes the 99th percentile of
    the times to reuse, 1,155 seconds and more in its traces; ours suits people who answer within minutes.
    """

    life_s: float = 120.0
    p: float = 0.99
    ratio: float = 40.0

    @property
    def alpha_s(self) -> float:
        return -self.life_s / math.log(self.p)

    @property
    def beta_s(self) -> float:
        return self.alpha_s / self.ratio

    @property
    def offset_s(self) -> float:
        """At which the second exponential is 1."""
        return self.life_s * (1 - 1 / self.ratio)

    def log_lambda(self, turn_s: float) -> float:
        """ln(lambda) with which both exponentials meet at ``turn_s``."""
        return (turn_s - self.offset_s) / self.beta_s - turn_s / self.alpha_s


_Entry = tuple[float, int, PageId, float]
"""A block in its cohort: ln(dT c), minus its position, its page, and its last use, which all in a cohort share."""


class _Cohort:
    """Blocks of one format and priority that were used last at the same time: either key orders them by their worth.

    ``entries``: the cheapest last, once they are sorted; ``waits``: to be sorted and placed.
    """

    __slots__ = ("entries", "last", "priority", "waits")

    def __init__(self, priority: float, last: float) -> None:
        self.priority, self.last = priority, last
        self.waits = False
        self.entries: list[_Entry] = []

    def __lt__(self, other: _Cohort) -> bool:
        """Items that differ in nothing else are in no order."""
        return False


_Item = tuple[float, float, float, _Entry, _Cohort]
"""A cohort in one of the structures: its priority, the key of its cheapest block there, its last use, and that block.
Blocks that leave only raise the keys of a cohort: its item is mended when it surfaces.
"""


class _Heaps:
    """Both structures, of one format. ``open``: the last cohort of each priority; ``waiting``: cohorts that have to be
    put into the structures before the next victim; ``cohorts``, ``entries``: how many there are.
    """

    __slots__ = ("cohorts", "entries", "first", "open", "second", "waiting")

    def __init__(self) -> None:
        self.first: list[_Item] = []
        self.second: list[_Item] = []
        self.open: dict[float, _Cohort] = {}
        self.waiting: list[_Cohort] = []
        self.cohorts = self.entries = 0


class AsymCache:
    """``multiplier``: the factor c. Ties go to the longest idle, then to the deepest.

    The structures hold cohorts, of which there are about as many as requests, and not blocks.
    """

    def __init__(self, cost: PrefillCost, lifespan: Lifespan | None = None, multiplier: Multiplier = per_byte) -> None:
        self._cost, self._lifespan, self._multiplier = cost, lifespan or Lifespan(), multiplier
        self._alpha_s, self._beta_s = self._lifespan.alpha_s, self._lifespan.beta_s
        self._offset_s = self._lifespan.offset_s
        self._log_lambda = 0.0
        self._reuse_s: deque[float] = deque(maxlen=_OBSERVED)
        self._observations = 0
        self._observed: float | None = None
        self._live: dict[PageId, _Entry] = {}
        self._heaps: dict[Format, _Heaps] = {}
        self._uses: dict[PageId, int] = {}

    @property
    def log_lambda(self) -> float:
        return self._log_lambda

    def stored(self, block: Block, now: float) -> None:
        self._uses[block.page] = 1

    def reused(self, block: Block, now: float) -> None:
        self._uses[block.page] += 1
        entry = self._live.pop(block.page, None)
        if entry is not None:
            self._observe(entry[3], now)

    def idle(self, block: Block, now: float) -> None:
        page = block.page
        factor = self._multiplier(block, self._uses[page])
        entry = math.log(recompute_seconds(self._cost, block) * factor), -block.position, page, now
        self._live[page] = entry
        heaps = self._heaps.get(block.format)
        if heaps is None:
            heaps = self._heaps[block.format] = _Heaps()
        cohort = self._cohort(heaps, priority_of(block.hints), now)
        heaps.cohorts += not cohort.entries
        heaps.entries += 1
        cohort.entries.append(entry)
        if not cohort.waits:
            self._wait(heaps, cohort)
        if heaps.entries > 64 and heaps.entries > 2 * len(self._live):
            self._tidy(heaps)

    def gone(self, block: Block, why: Why, now: float) -> None:
        del self._uses[block.page]
        self._live.pop(block.page, None)

    def victim(self, format: Format | None, now: float) -> PageId | None:
        if format is None:
            best = min(filter(None, [self._candidate(heaps, now) for heaps in self._heaps.values()]), default=None)
        else:
            heaps = self._heaps.get(format)
            best = None if heaps is None else self._candidate(heaps, now)
        return None if best is None else best[3][2]

    def fresh(self) -> AsymCache:
        return AsymCache(self._cost, self._lifespan, self._multiplier)

    def book(self) -> Set[PageId]:
        return self._live.keys()

    def _cohort(self, heaps: _Heaps, priority: float, last: float) -> _Cohort:
        cohort = heaps.open.get(priority)
        if cohort is None or cohort.last != last:
            cohort = heaps.open[priority] = _Cohort(priority, last)
        return cohort

    def _candidate(self, heaps: _Heaps, now: float) -> _Item | None:
        """Of the first block of a format, with ln(f dT c) as its key."""
        self._place_waiting(heaps)
        if len(heaps.first) + len(heaps.second) > 64 + 3 * heaps.cohorts:
            heaps.first = self._fresh(heaps, heaps.first, self._alpha_s)
            heaps.second = self._fresh(heaps, heaps.second, self._beta_s)
        slow, fast = self._top(heaps, heaps.first, self._alpha_s), self._top(heaps, heaps.second, self._beta_s)
        if slow is None or fast is None:
            return None
        return min(
            (slow[0], slow[1] - now / self._alpha_s, *slow[2:]),
            (fast[0], self._log_lambda + fast[1] - (now - self._offset_s) / self._beta_s, *fast[2:]),
        )

    def _top(self, heaps: _Heaps, items: list[_Item], scale_s: float) -> _Item | None:
        """The first of one structure, which stands for the cheapest block of its cohort."""
        while items:
            item = items[0]
            cheapest = self._cheapest(heaps, item[4])
            if cheapest is item[3]:
                return item
            if cheapest is None:
                heapq.heappop(items)
            else:
                heapq.heapreplace(items, self._item(item[4], cheapest, scale_s))
        return None

    def _cheapest(self, heaps: _Heaps, cohort: _Cohort) -> _Entry | None:
        entries, live = cohort.entries, self._live
        while entries:
            entry = entries[-1]
            if live.get(entry[2]) is entry:
                return entry
            entries.pop()
            heaps.entries -= 1
            heaps.cohorts -= not entries
        return None

    def _item(self, cohort: _Cohort, entry: _Entry, scale_s: float) -> _Item:
        last = cohort.last
        return cohort.priority, entry[0] + last / scale_s, last, entry, cohort

    def _wait(self, heaps: _Heaps, cohort: _Cohort) -> None:
        cohort.waits = True
        heaps.waiting.append(cohort)
        if len(heaps.waiting) > _MOST_WAITING:
            self._place_waiting(heaps)

    def _place_waiting(self, heaps: _Heaps) -> None:
        for cohort in heaps.waiting:
            cohort.waits = False
            cohort.entries.sort(reverse=True)
            self._place(heaps, cohort)
        heaps.waiting.clear()

    def _place(self, heaps: _Heaps, cohort: _Cohort) -> None:
        """Into both structures, by its cheapest block if it has any."""
        entry = self._cheapest(heaps, cohort)
        if entry is not None:
            heapq.heappush(heaps.first, self._item(cohort, entry, self._alpha_s))
            heapq.heappush(heaps.second, self._item(cohort, entry, self._beta_s))

    def _fresh(self, heaps: _Heaps, items: list[_Item], scale_s: float) -> list[_Item]:
        """One item for each cohort."""
        cheapest = ((cohort, self._cheapest(heaps, cohort)) for cohort in {item[4] for item in items})
        found = [self._item(cohort, entry, scale_s) for cohort, entry in cheapest if entry is not None]
        heapq.heapify(found)
        return found

    def _observe(self, last: float, now: float) -> None:
        """A block that was used last at ``last`` is used again."""
        if last == self._observed:
            return
        self._observed = last
        self._reuse_s.append(now - last)
        self._observations += 1
        if not self._observations % _UPDATE_EVERY:
            self._log_lambda = self._lifespan.log_lambda(math.fsum(self._reuse_s) / len(self._reuse_s))

    def _tidy(self, heaps: _Heaps) -> None:
        """Drop blocks that are no longer idle, once they are as many as those that are."""
        self._place_waiting(heaps)
        placed = {item[4] for item in heaps.first}
        heaps.first, heaps.second, heaps.cohorts, heaps.entries = [], [], 0, 0
        for cohort in placed:
            cohort.entries = [entry for entry in cohort.entries if self._live.get(entry[2]) is entry]
            heaps.cohorts += bool(cohort.entries)
            heaps.entries += len(cohort.entries)
            self._place(heaps, cohort)
