"""Least recently used first. Of pages released together, the deepest goes first: prefixes are shared, tails are not."""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from kvloom.policy.actions import Drop
from kvloom.policy.retention.base import Candidate
from kvloom.segment import PageId

_Rank = tuple[float, int, int, PageId]


class LeastRecentlyUsed:
    """O(log n) per operation: one heap per kind, stale items skipped when they surface."""

    def __init__(self) -> None:
        self._live: dict[PageId, tuple[str, _Rank]] = {}
        self._heaps: dict[str, list[_Rank]] = {}
        self._admitted = 0

    def admit(self, candidate: Candidate) -> None:
        self._admitted += 1
        rank = (candidate.released_s, -candidate.position, self._admitted, candidate.page)
        self._live[candidate.page] = (candidate.kind, rank)
        heapq.heappush(self._heaps.setdefault(candidate.kind, []), rank)
        self._compact(candidate.kind)

    def withdraw(self, page: PageId) -> None:
        self._live.pop(page, None)

    def propose(self, kind: str | None = None) -> Iterator[Drop]:
        if kind is not None:
            while (rank := self._oldest(kind)) is not None:
                yield Drop(rank[3])
                if self._oldest(kind) == rank:  # the proposal was not taken: do not offer it for ever
                    return
            return
        for _, rank in sorted(self._live.values(), key=lambda live: live[1]):
            yield Drop(rank[3])

    def _oldest(self, kind: str) -> _Rank | None:
        heap = self._heaps.get(kind, [])
        while heap and self._live.get(heap[0][3], (kind, None))[1] != heap[0]:
            heapq.heappop(heap)
        return heap[0] if heap else None

    def _compact(self, kind: str) -> None:
        heap = self._heaps[kind]
        if len(heap) > 64 and len(heap) > 4 * len(self._live):
            self._heaps[kind] = [rank for rank in heap if self._live.get(rank[3], (kind, None))[1] == rank]
            heapq.heapify(self._heaps[kind])
