"""Cost over idle time, lowest first: of idle contexts the beginnings go first, which are the cheapest to recompute.

Source: Pensieve (arXiv 2312.05516), whose value of a chunk is the cost of computing it at its position divided by the
time that it has been idle. We differ: two such values may change places as time passes, so that the exact order takes a
look at every block. Here blocks whose costs per byte are within a factor of ``STEP`` share a class, in each of which
the longest idle goes first, and the classes' candidates are compared by their values. A victim's value is therefore at
most ``STEP`` times the lowest there is. Within a class, of blocks released together the cheapest is evicted first,
and of equally cheap ones the deepest.
"""

from __future__ import annotations

import math
from collections.abc import Set

from kvloom.policy.cost import PrefillCost
from kvloom.policy.events import Block, Format
from kvloom.policy.retention.classes import Classes
from kvloom.policy.retention.worth import seconds_per_byte
from kvloom.segment import PageId, Why

STEP = 1.25
"""Costs that differ by a factor of eight make ten classes."""

_LEAST_AGE_S = 1e-6


class CostOverAge:
    """A handful of orders, by cost."""

    def __init__(self, cost: PrefillCost) -> None:
        self._cost = cost
        self._classes = Classes()

    def stored(self, block: Block, now: float) -> None:
        pass

    def reused(self, block: Block, now: float) -> None:
        self._classes.remove(block.page)

    def idle(self, block: Block, now: float) -> None:
        worth = seconds_per_byte(self._cost, block)
        self._classes.put(math.floor(math.log(worth) / math.log(STEP)), block, now, worth, -block.position)

    def gone(self, block: Block, why: Why, now: float) -> None:
        self._classes.remove(block.page)

    def victim(self, format: Format | None, now: float) -> PageId | None:
        best: tuple[float, ...] | None = None
        for _, (priority, idle_s, worth, depth, _, page) in self._classes.lowest(format):
            candidate = (priority, worth / max(now - idle_s, _LEAST_AGE_S), depth, page)
            best = candidate if best is None else min(best, candidate)
        return None if best is None else best[-1]  # type: ignore[return-value]

    def fresh(self) -> CostOverAge:
        return CostOverAge(self._cost)

    def book(self) -> Set[PageId]:
        return self._classes.pages()
