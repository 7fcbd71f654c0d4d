"""Least recently used first, with blocks kept for as long as a pause is likely to be worth waiting for.

Agents pause while a tool runs, and come back. A block is given a time to live when it becomes idle, and evicted in
order of expiry: one that is still within its time goes only when all others have gone, and one that has outlived it
counts as last used at its expiry. A request may say the time itself; otherwise it is the one that pays best,

    argmax  gain F(ttl) - (reused E[min(pause, ttl)] + (1 - reused) ttl) / lifetime

with what was learned of late: F, the distribution of pauses that ended in a reuse; ``reused``, the share of idle times
that did; ``lifetime``, the mean idle time of evicted blocks, for which memory that is kept is lost to others; and
``gain``, what recomputing the block costs in means. The deeper a block, the longer it is kept.

Source: Continuum (arXiv 2511.02230), CacheTTL, of which a summary was read: pages of an agent that called a tool are
pinned for a time that weighs the saved reload and queueing against the memory held. We differ: pauses are not told
apart by tool, nor from those of people, unless a request says its time; the weights are ours, per block, and leave
queueing out; nothing is pinned, so that there is no deadlock to resolve.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence, Set

import numpy as np
import numpy.typing as npt

from kvloom.policy.cost import PrefillCost
from kvloom.policy.events import Block, Format
from kvloom.policy.retention.order import Order
from kvloom.policy.retention.worth import seconds_per_byte
from kvloom.segment import PageId, Why

_OBSERVED = 256
"""Idle times that it learns from, counted once per release."""

_UPDATE_EVERY = 64
_LEVELS = tuple(2.0 ** (n / 2) for n in range(-6, 7))
"""Gains for which times are computed: from an eighth to eight means."""

_SMOOTHING = 1 / 1024


def best_ttls(
    pauses_s: Sequence[float], reused: float, lifetime_s: float, gains: Sequence[float]
) -> npt.NDArray[np.float64]:
    """The time to live that pays best, for blocks of each gain: 0, or one of the pauses, of which there is at least
    one.

    >>> best_ttls([2.0, 1.0, 90.0, 1.0], reused=1.0, lifetime_s=10.0, gains=[1.0, 0.1]).tolist()
    [2.0, 0.0]
    """
    pauses_N = np.sort(np.asarray(pauses_s, dtype=np.float64))
    count = len(pauses_N)
    back_N = np.arange(1, count + 1) / count
    held_N = np.cumsum(pauses_N) / count + (1 - back_N) * pauses_N
    values_GN = np.multiply.outer(gains, back_N) - (reused * held_N + (1 - reused) * pauses_N) / lifetime_s
    best_G = values_GN.argmax(axis=1)
    ttls_G: npt.NDArray[np.float64] = np.where(values_GN.max(axis=1) > 0, pauses_N[best_G], 0.0)
    return ttls_G


class PauseTtl:
    """An order of expiry. Learns while it serves: until something was evicted and reused, it is that of release."""

    def __init__(self, cost: PrefillCost) -> None:
        self._cost = cost
        self._order = Order()
        self._pauses_s: deque[float] = deque(maxlen=_OBSERVED)
        self._reused: deque[bool] = deque(maxlen=_OBSERVED)
        self._lifetimes_s: deque[float] = deque(maxlen=_OBSERVED)
        self._ends = 0
        self._last: tuple[float, bool] | None = None
        self._mean_worth = 0.0
        self._ttls_s = [0.0] * len(_LEVELS)

    def stored(self, block: Block, now: float) -> None:
        pass

    def reused(self, block: Block, now: float) -> None:
        rank = self._order.remove(block.page)
        if rank is not None and self._counts(rank[1], reused=True):
            self._pauses_s.append(now - rank[1])
            self._learn()

    def idle(self, block: Block, now: float) -> None:
        ttl_s = block.hints.get("ttl_s")
        if ttl_s is None:
            ttl_s = self._learned(seconds_per_byte(self._cost, block))
        self._order.put(block, now + ttl_s, now, -block.position)

    def gone(self, block: Block, why: Why, now: float) -> None:
        rank = self._order.remove(block.page)
        if rank is not None and why is Why.EVICTED and self._counts(rank[1], reused=False):
            self._lifetimes_s.append(now - rank[1])
            self._learn()

    def victim(self, format: Format | None, now: float) -> PageId | None:
        return self._order.first(format)

    def fresh(self) -> PauseTtl:
        return PauseTtl(self._cost)

    def book(self) -> Set[PageId]:
        return self._order.pages()

    def _learned(self, worth: float) -> float:
        """The time to live of a block that is worth so much."""
        self._mean_worth += (worth - self._mean_worth) * (_SMOOTHING if self._mean_worth else 1.0)
        level = round(2 * math.log2(worth / self._mean_worth)) + len(_LEVELS) // 2
        return self._ttls_s[min(max(level, 0), len(_LEVELS) - 1)]

    def _counts(self, idle_s: float, reused: bool) -> bool:
        """Whether an idle time has ended that did not just end so for another block of the same release."""
        last, self._last = self._last, (idle_s, reused)
        if self._last == last:
            return False
        self._reused.append(reused)
        self._ends += 1
        return True

    def _learn(self) -> None:
        if self._ends % _UPDATE_EVERY or not self._pauses_s or not self._lifetimes_s:
            return
        share = sum(self._reused) / len(self._reused)
        lifetime_s = max(1e-3, math.fsum(self._lifetimes_s) / len(self._lifetimes_s))
        self._ttls_s = best_ttls(self._pauses_s, share, lifetime_s, _LEVELS).tolist()
