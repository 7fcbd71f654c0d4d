"""Which reusable pages to give up when room is needed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from kvloom.policy.actions import Drop
from kvloom.segment import PageId


@dataclass(frozen=True, slots=True)
class Candidate:
    """A page that no sequence holds and that could be dropped.

    ``kind`` is the page format's name, ``position`` the first token position it holds, ``released_s`` when its last
    holder let go (monotonic seconds; all pages of one request share one time stamp).
    """

    page: PageId
    kind: str
    position: int
    size_bytes: int
    released_s: float


class Retention(Protocol):
    """Orders candidates. Sees them come and go; never touches memory itself."""

    def admit(self, candidate: Candidate) -> None:
        """A page became droppable."""
        ...

    def withdraw(self, page: PageId) -> None:
        """A page is held again, or gone."""
        ...

    def propose(self, kind: str | None = None) -> Iterator[Drop]:
        """Drops in the order they should happen, of one kind or of all. Lazy: take what is needed."""
        ...
