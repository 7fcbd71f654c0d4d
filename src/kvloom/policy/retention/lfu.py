"""Least frequently used first, with dynamic aging, so that blocks that were popular once do not stay forever.

A block's value is its number of uses plus the age of the cache at its last use; the age is the value of the last block
evicted. Among equal values, the least recently used block is evicted first, and among those the deepest.

Source: Arlitt et al., Evaluating Content Management Techniques for Web Proxy Caches, 2000 (LFU-DA).
"""

from __future__ import annotations

from collections.abc import Set

from kvloom.policy.events import Block, Format
from kvloom.policy.retention.order import Order
from kvloom.segment import PageId, Why


class LeastFrequentlyUsed:
    """Counts uses for as long as a block is stored: creating it is one, every later hold another."""

    def __init__(self) -> None:
        self._order = Order()
        self._uses: dict[PageId, int] = {}
        self._age = 0.0

    def stored(self, block: Block, now: float) -> None:
        self._uses[block.page] = 1

    def reused(self, block: Block, now: float) -> None:
        self._uses[block.page] += 1
        self._order.remove(block.page)

    def idle(self, block: Block, now: float) -> None:
        self._order.put(block, self._age + self._uses[block.page], now, -block.position)

    def gone(self, block: Block, why: Why, now: float) -> None:
        del self._uses[block.page]
        rank = self._order.remove(block.page)
        if rank is not None and why is Why.EVICTED:
            self._age = max(self._age, rank[0])

    def victim(self, format: Format | None, now: float) -> PageId | None:
        return self._order.first(format)

    def fresh(self) -> LeastFrequentlyUsed:
        return LeastFrequentlyUsed()

    def book(self) -> Set[PageId]:
        return self._order.pages()
