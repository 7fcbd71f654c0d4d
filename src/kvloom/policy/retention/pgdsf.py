"""Greedy dual, by size, frequency and the cost of prefill: a clock mixes cost, uses and age without any time.

A block's value is its uses times its cost over its size, plus the clock at its last use; the clock is the value of the
last block evicted. Among equal values, the least recently used block is evicted first, and among those the deepest.

Source: RAGCache (arXiv 2404.12457), PGDSF. We differ: the cost of a block follows from its position, where the paper
averages a measured cost over the misses that recomputed it; any block may go, where in the paper it must be a leaf of
the tree of prefixes; there is one clock, since there is one tier.
"""

from __future__ import annotations

from collections.abc import Set

from kvloom.policy.cost import PrefillCost
from kvloom.policy.events import Block, Format
from kvloom.policy.retention.order import Order
from kvloom.policy.retention.worth import seconds_per_byte
from kvloom.segment import PageId, Why


class GreedyDual:
    """Counts uses for as long as a block is stored: creating it is one, every later hold another."""

    def __init__(self, cost: PrefillCost) -> None:
        self._cost = cost
        self._order = Order()
        self._uses: dict[PageId, int] = {}
        self._clock = 0.0

    def stored(self, block: Block, now: float) -> None:
        self._uses[block.page] = 1

    def reused(self, block: Block, now: float) -> None:
        self._uses[block.page] += 1
        self._order.remove(block.page)

    def idle(self, block: Block, now: float) -> None:
        value = self._clock + self._uses[block.page] * seconds_per_byte(self._cost, block)
        self._order.put(block, value, now, -block.position)

    def gone(self, block: Block, why: Why, now: float) -> None:
        del self._uses[block.page]
        rank = self._order.remove(block.page)
        if rank is not None and why is Why.EVICTED:
            self._clock = max(self._clock, rank[0])

    def victim(self, format: Format | None, now: float) -> PageId | None:
        return self._order.first(format)

    def fresh(self) -> GreedyDual:
        return GreedyDual(self._cost)

    def book(self) -> Set[PageId]:
        return self._order.pages()
