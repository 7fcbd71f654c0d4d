"""Which reusable pages to evict when room is needed."""

from __future__ import annotations

from collections.abc import Set
from typing import Protocol, Self

from kvloom.policy.events import Format, Listener
from kvloom.segment import PageId


class Retention(Listener, Protocol):
    """Maintains an order of idle blocks from the events it receives. Never touches memory itself.

    It decides what is evicted first, never whether there is room: an answer that is not droppable is counted, and the
    ledger drops the block that has been idle longest.
    """

    def victim(self, format: Format | None, now: float) -> PageId | None:
        """The block to drop first, of this format or of any; None if no such block is idle.

        Has no side effects: until the next event the result depends on ``now`` alone, which never goes back. O(log n):
        called for every allocated page.
        """
        ...

    def fresh(self) -> Self:
        """A new policy with the same settings and no history: whole slabs are kept in a separate order."""
        ...

    def book(self) -> Set[PageId]:
        """All blocks that it considers idle, for audits."""
        ...
