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


_First = tuple[float, float, float, int, PageId]
"""The priority, key1, its last use, minus the position, and the page."""

_Second = tuple[float, float, _First]
"""The priority, key2, and its item of the first structure: equal keys are ordered as those are."""


class _Heaps:
    """Both structures, of one format."""

    __slots__ = ("first", "second")

    def __init__(self) -> None:
        self.first: list[_First] = []
        self.second: list[_Second] = []


class AsymCache:
    """``multiplier``: the factor c. Ties go to the longest idle, then to the deepest."""

    def __init__(self, cost: PrefillCost, lifespan: Lifespan | None = None, multiplier: Multiplier = per_byte) -> None:
        self._cost, self._lifespan, self._multiplier = cost, lifespan or Lifespan(), multiplier
        self._alpha_s, self._beta_s = self._lifespan.alpha_s, self._lifespan.beta_s
        self._offset_s = self._lifespan.offset_s
        self._log_lambda = 0.0
        self._reuse_s: deque[float] = deque(maxlen=_OBSERVED)
        self._observations = 0
        self._observed: float | None = None
        self._live: dict[PageId, _First] = {}
        self._heaps: dict[Format, _Heaps] = {}
        self._uses: dict[PageId, int] = {}

    @property
    def log_lambda(self) -> float:
        return self._log_lambda

    def stored(self, block: Block, now: float) -> None:
        self._uses[block.page] = 1

    def reused(self, block: Block, now: float) -> None:
        self._uses[block.page] += 1
        item = self._live.pop(block.page, None)
        if item is not None:
            self._observe(item[2], now)

    def idle(self, block: Block, now: float) -> None:
        page, priority = block.page, priority_of(block.hints)
        factor = self._multiplier(block, self._uses[page])
        worth = math.log(recompute_seconds(self._cost, block) * factor)
        item = self._live[page] = (priority, worth + now / self._alpha_s, now, -block.position, page)
        heaps = self._heaps.get(block.format)
        if heaps is None:
            heaps = self._heaps[block.format] = _Heaps()
        heapq.heappush(heaps.first, item)
        heapq.heappush(heaps.second, (priority, worth + now / self._beta_s, item))
        if len(heaps.second) > 64 and len(heaps.second) + len(heaps.first) > 3 * len(self._live):
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
        return None if best is None else best[2][4]

    def fresh(self) -> AsymCache:
        return AsymCache(self._cost, self._lifespan, self._multiplier)

    def book(self) -> Set[PageId]:
        return self._live.keys()

    def _candidate(self, heaps: _Heaps, now: float) -> _Second | None:
        """The priority, ln(f dT c) and the item of the first block of a format."""
        live, first, second = self._live, heaps.first, heaps.second
        while first and live.get(first[0][4]) is not first[0]:
            heapq.heappop(first)
        while second and live.get(second[0][2][4]) is not second[0][2]:
            heapq.heappop(second)
        if not first:
            return None
        (priority, key1, *_), (_, key2, item) = first[0], second[0]
        slow = priority, key1 - now / self._alpha_s, first[0]
        fast = priority, self._log_lambda + key2 - (now - self._offset_s) / self._beta_s, item
        return min(slow, fast)

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
        """Drop what is stale, once it is half as many as the blocks that are idle."""
        live = self._live
        heaps.first[:] = [item for item in heaps.first if live.get(item[4]) is item]
        heaps.second[:] = [item for item in heaps.second if live.get(item[2][4]) is item[2]]
        heapq.heapify(heaps.first)
        heapq.heapify(heaps.second)
