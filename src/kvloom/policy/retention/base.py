"""Which reusable pages to give up when room is needed."""

from __future__ import annotations

from collections.abc import Set
from typing import Protocol, Self

from kvloom.policy.events import Format, Listener
from kvloom.segment import PageId


class Retention(Listener, Protocol):
    """Keeps an order of what is idle, from the events that it hears. Never touches memory itself.

    It decides what goes first, never whether there is room: an answer that names nothing droppable is counted, and the
    ledger takes what has been idle longest.
    """

    def victim(self, format: Format | None, now: float) -> PageId | None:
        """The block to drop first, of this format or of any; None when nothing of it is idle.

        Asking changes nothing: the same is said until an event changes it. O(log n): it is asked for every page taken.
        """
        ...

    def fresh(self) -> Self:
        """A policy with the same settings that has heard nothing yet: whole slabs are kept in an order of their own."""
        ...

    def book(self) -> Set[PageId]:
        """All blocks that it takes for idle: for audits."""
        ...
