"""Pins: stored KV that requests asked to keep for a while after its last use, whatever the order of retention.

What is pinned has a priority above all others while it is idle, so every policy drops it last: but before a request
goes without room. Pins have a part of the budget; what is asked for beyond it is counted, and is kept like any other.
Source: Continuum (arXiv 2511.02230), where pins are a class above the policy.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from kvloom.errors import InternalError
from kvloom.policy.events import HIGHEST_PRIORITY, Block, priority_of
from kvloom.segment import PageId

_ABOVE = HIGHEST_PRIORITY + 1
"""Added to the priority that was asked for."""


@dataclass(slots=True)
class Pins:
    """``bytes``: of what is pinned, at most ``budget_bytes``. Counted in bytes: ``refused``, what did not get a pin for
    want of room among them; ``broken``, what was dropped because nothing else was left.
    """

    budget_bytes: int
    bytes: int = 0
    refused_bytes: int = 0
    broken_bytes: int = 0
    _asked: dict[PageId, tuple[float, Block]] = field(default_factory=dict)
    """What is pinned: until when, and the block with the hints that were asked for."""
    _ends: list[tuple[float, PageId]] = field(default_factory=list)
    """A heap of when pins end. A page may have another pin by now, or none."""

    def pin(self, block: Block, idle_s: float, now: float) -> Block:
        """The block as it is filed while it is idle, which it has been since ``idle_s``: pinned, if it asks for it."""
        until_s = idle_s + block.hints.get("pin_s", 0.0)
        if until_s <= now:
            return block
        if self.bytes + block.size_bytes > self.budget_bytes:
            self.refused_bytes += block.size_bytes
            return block
        self.bytes += block.size_bytes
        self._asked[block.page] = until_s, block
        heapq.heappush(self._ends, (until_s, block.page))
        return block._replace(hints={**block.hints, "priority": priority_of(block.hints) + _ABOVE})

    def asked(self, block: Block) -> Block:
        """The block with the hints that were asked for, pinned or not."""
        return block if (found := self._asked.get(block.page)) is None else found[1]

    def unpin(self, page: PageId) -> Block | None:
        """End a pin: the block as it was before. None: it has none."""
        if page not in self._asked:
            return None
        _, block = self._asked.pop(page)
        self.bytes -= block.size_bytes
        if len(self._ends) > 64 and len(self._ends) > 4 * len(self._asked):
            self._ends = [(until_s, page) for page, (until_s, _) in self._asked.items()]
            heapq.heapify(self._ends)
        return block

    def over(self, now: float) -> Iterator[Block]:
        """End all pins whose time is up: the blocks as they were before."""
        while self._ends and self._ends[0][0] <= now:
            until_s, page = heapq.heappop(self._ends)
            if page in self._asked and self._asked[page][0] == until_s:
                block = self.unpin(page)
                assert block is not None
                yield block

    def check(self, idle: Mapping[PageId, Block]) -> None:
        """Audit against all idle blocks, as they are filed. Raises InternalError."""
        pinned = {page for page, block in idle.items() if priority_of(block.hints) >= _ABOVE}
        if pinned != self._asked.keys():
            raise InternalError(f"{set(self._asked)} are pinned, but {pinned} are filed so")
        if self.bytes != sum(block.size_bytes for _, block in self._asked.values()) or self.bytes > self.budget_bytes:
            raise InternalError(f"{self.bytes} bytes are pinned, and {self.budget_bytes} may be")
