"""Least recently used first. Of pages released together, the deepest is evicted first: prefixes are shared more."""

from __future__ import annotations

from collections.abc import Set

from kvloom.policy.events import Block, Format
from kvloom.policy.retention.order import Order
from kvloom.segment import PageId, Why


class LeastRecentlyUsed:
    """Evicts in order of release."""

    def __init__(self) -> None:
        self._order = Order()

    def stored(self, block: Block, now: float) -> None:
        pass

    def reused(self, block: Block, now: float) -> None:
        self._order.remove(block.page)

    def idle(self, block: Block, now: float) -> None:
        self._order.put(block, now, -block.position)

    def gone(self, block: Block, why: Why, now: float) -> None:
        self._order.remove(block.page)

    def victim(self, format: Format | None, now: float) -> PageId | None:
        return self._order.first(format)

    def fresh(self) -> LeastRecentlyUsed:
        return LeastRecentlyUsed()

    def book(self) -> Set[PageId]:
        return self._order.pages()
