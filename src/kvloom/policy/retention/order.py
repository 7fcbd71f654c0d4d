"""Blocks by rank, lowest first: what most policies need to keep their order in."""

from __future__ import annotations

import heapq
from collections.abc import Set
from dataclasses import dataclass, field

from kvloom.policy.events import Block, Format
from kvloom.segment import PageId

_Item = tuple[float, ...]
"""The rank, then a running number, then the page."""


@dataclass(slots=True, eq=False)
class _Heap:
    """``live`` of the items are in the order still; the others are skipped when they surface."""

    items: list[_Item] = field(default_factory=list)
    live: int = 0


class Order:
    """A heap per format: O(log n) per operation. Of equal ranks, the one that came first is first."""

    def __init__(self) -> None:
        self._live: dict[PageId, tuple[_Heap, _Item]] = {}
        self._heaps: dict[Format, _Heap] = {}
        self._count = 0

    def put(self, block: Block, *rank: float) -> None:
        """Give a block its place, or a new one."""
        page = block.page
        if page in self._live:
            self.remove(page)
        self._count += 1
        heap = self._heaps.get(block.format)
        if heap is None:
            heap = self._heaps[block.format] = _Heap()
        item = (*rank, self._count, page)
        self._live[page] = heap, item
        heap.live += 1
        heapq.heappush(heap.items, item)
        if len(heap.items) > 64 and len(heap.items) > 4 * heap.live:
            heap.items = [item for item in heap.items if self._is_live(item)]
            heapq.heapify(heap.items)

    def remove(self, page: PageId) -> tuple[float, ...] | None:
        """Take a block out, if it is there; its rank."""
        found = self._live.pop(page, None)
        if found is None:
            return None
        found[0].live -= 1
        return found[1][:-2]

    def first(self, format: Format | None) -> PageId | None:
        """The lowest of one format, or of all."""
        heaps = self._heaps.values() if format is None else filter(None, [self._heaps.get(format)])
        firsts = [item for heap in heaps if (item := self._top(heap)) is not None]
        return PageId(int(min(firsts)[-1])) if firsts else None

    def pages(self) -> Set[PageId]:
        return self._live.keys()

    def _top(self, heap: _Heap) -> _Item | None:
        while heap.items and not self._is_live(heap.items[0]):
            heapq.heappop(heap.items)
        return heap.items[0] if heap.items else None

    def _is_live(self, item: _Item) -> bool:
        found = self._live.get(item[-1])  # type: ignore[call-overload]
        return found is not None and found[1] is item
