"""Uses times worth, with a clock that moves with what is evicted, so that nothing stays for having been popular once.

A block's value is its uses times its worth, plus the clock at its last use; the clock is the value of the last block
evicted. Among equal values, the least recently used block is evicted first, and among those the deepest.
"""

from __future__ import annotations

from collections.abc import Callable, Set

from kvloom.policy.events import Block, Format
from kvloom.policy.retention.order import Order
from kvloom.segment import PageId, Why


class Aging:
    """Counts uses for as long as a block is stored: creating it is one, every later hold another. ``worth``: of a use
    of a block, constant while it is idle.
    """

    def __init__(self, worth: Callable[[Block], float]) -> None:
        self._worth = worth
        self._order = Order()
        self._uses: dict[PageId, int] = {}
        self._clock = 0.0

    def stored(self, block: Block, now: float) -> None:
        self._uses[block.page] = 1

    def reused(self, block: Block, now: float) -> None:
        self._uses[block.page] += 1
        self._order.remove(block.page)

    def idle(self, block: Block, now: float) -> None:
        value = self._clock + self._uses[block.page] * self._worth(block)
        self._order.put(block, value, now, -block.position)

    def gone(self, block: Block, why: Why, now: float) -> None:
        del self._uses[block.page]
        rank = self._order.remove(block.page)
        if rank is not None and why is Why.EVICTED:
            self._clock = max(self._clock, rank[0])

    def victim(self, format: Format | None, now: float) -> PageId | None:
        return self._order.first(format)

    def fresh(self) -> Aging:
        return Aging(self._worth)

    def book(self) -> Set[PageId]:
        return self._order.pages()
