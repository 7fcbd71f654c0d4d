"""First in, first out: what was stored first goes first, however often it was used since.

Of blocks stored at the same time, the deepest is evicted first.
"""

from __future__ import annotations

from collections.abc import Set

from kvloom.policy.events import Block, Format
from kvloom.policy.retention.order import Order
from kvloom.segment import PageId, Why


class FirstInFirstOut:
    """Evicts in order of storage."""

    def __init__(self) -> None:
        self._order = Order()
        self._stored_s: dict[PageId, float] = {}

    def stored(self, block: Block, now: float) -> None:
        self._stored_s[block.page] = now

    def reused(self, block: Block, now: float) -> None:
        self._order.remove(block.page)

    def idle(self, block: Block, now: float) -> None:
        self._order.put(block, self._stored_s[block.page], -block.position)

    def gone(self, block: Block, why: Why, now: float) -> None:
        del self._stored_s[block.page]
        self._order.remove(block.page)

    def victim(self, format: Format | None, now: float) -> PageId | None:
        return self._order.first(format)

    def fresh(self) -> FirstInFirstOut:
        return FirstInFirstOut()

    def book(self) -> Set[PageId]:
        return self._order.pages()
