"""Blocks by priority and rank, lowest first: the data structure that most policies need."""

from __future__ import annotations

import heapq
from collections.abc import Set

from kvloom.policy.events import Block, Format, priority_of
from kvloom.segment import PageId

_Item = tuple[float, ...]
"""The requested priority, the rank, a running number, and the page."""


class Order:
    """A heap per format: O(log n) per operation. Equal ranks keep the order of insertion.

    A block of lower priority comes before all of higher ones, whatever their ranks.
    """

    def __init__(self) -> None:
        self._live: dict[PageId, _Item] = {}
        self._heaps: dict[Format, list[_Item]] = {}
        self._count = 0

    def put(self, block: Block, *rank: float) -> None:
        """Insert or reposition a block."""
        page = block.page
        self._count += 1
        item = self._live[page] = (priority_of(block.hints), *rank, self._count, page)
        heap = self._heaps.get(block.format)
        if heap is None:
            heap = self._heaps[block.format] = []
        heapq.heappush(heap, item)
        if len(heap) > 64 and len(heap) > 4 * len(self._live):
            heap[:] = [item for item in heap if self._live.get(_page(item)) is item]
            heapq.heapify(heap)

    def remove(self, page: PageId) -> tuple[float, ...] | None:
        """Remove a block, if present, by deleting its rank. The stale heap entry is skipped when it surfaces."""
        item = self._live.pop(page, None)
        return None if item is None else item[1:]

    def first(self, format: Format | None) -> PageId | None:
        """The lowest of one format, or of all."""
        item = self.lowest(format)
        return None if item is None else _page(item)

    def lowest(self, format: Format | None) -> tuple[float, ...] | None:
        """The lowest of one format, or of all: its priority, its rank, a running number and its page."""
        if format is None:
            return min(filter(None, map(self._top, self._heaps.values())), default=None)
        return self._top(self._heaps.get(format, []))

    def pages(self) -> Set[PageId]:
        return self._live.keys()

    def _top(self, heap: list[_Item]) -> _Item | None:
        live = self._live
        while heap:
            item = heap[0]
            if live.get(_page(item)) is item:
                return item
            heapq.heappop(heap)
        return None


def _page(item: _Item) -> PageId:
    return item[-1]  # type: ignore[return-value]
