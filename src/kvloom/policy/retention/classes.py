"""Blocks in classes, each with its own order: for values that only change places between classes as time passes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Set

from kvloom.policy.events import Block, Format
from kvloom.policy.retention.order import Order
from kvloom.segment import PageId


class Classes:
    """An ``Order`` by number of class, as long as anything is in it."""

    def __init__(self) -> None:
        self._orders: dict[int, Order] = defaultdict(Order)
        self._class_of: dict[PageId, int] = {}

    def put(self, number: int, block: Block, *rank: float) -> None:
        """Insert a block, or reposition it."""
        self.remove(block.page)
        self._class_of[block.page] = number
        self._orders[number].put(block, *rank)

    def remove(self, page: PageId) -> tuple[float, ...] | None:
        """As ``Order.remove``."""
        number = self._class_of.pop(page, None)
        if number is None:
            return None
        order = self._orders[number]
        rank = order.remove(page)
        if not order.pages():
            del self._orders[number]
        return rank

    def lowest(self, format: Format | None) -> Iterator[tuple[int, tuple[float, ...]]]:
        """Of every class, its number and what ``Order.lowest`` says."""
        for number, order in self._orders.items():
            if (item := order.lowest(format)) is not None:
                yield number, item

    def pages(self) -> Set[PageId]:
        return self._class_of.keys()
