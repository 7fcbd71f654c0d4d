"""What is remembered of blocks that were evicted, in case they come back."""

from __future__ import annotations

from collections import deque
from typing import Generic, Protocol, TypeVar

from kvloom.segment import PageKey

PER_STORED = 1.75
"""So many ghosts are kept for every stored block: what a page is charged leaves room for no more."""


class Known(Protocol):
    """``key``: of the contents."""

    key: PageKey | None


Ghost = TypeVar("Ghost", bound=Known)


class Ghosts(Generic[Ghost]):
    """Of one format, by contents; the first to be evicted are the first to be forgotten. An object is put here once.

    Slabs, which have no contents of their own, are not remembered.
    """

    def __init__(self) -> None:
        self._known: dict[PageKey, Ghost] = {}
        self._order: deque[Ghost] = deque()

    def __len__(self) -> int:
        return len(self._known)

    def take(self, key: PageKey | None) -> Ghost | None:
        """What is known of these contents, which are stored again."""
        return None if key is None else self._known.pop(key, None)

    def put(self, ghost: Ghost, stored: int) -> list[Ghost]:
        """``stored``: how many blocks are. Returns what is forgotten for it, perhaps ``ghost`` itself."""
        if ghost.key is None:
            return [ghost]
        before = self._known.get(ghost.key)
        forgotten = [] if before is None else [before]
        self._known[ghost.key] = ghost
        self._order.append(ghost)
        room = int(PER_STORED * stored)
        while len(self._known) > room or len(self._order) > 2 * room:
            oldest = self._order.popleft()
            assert oldest.key is not None
            if self._known.get(oldest.key) is oldest:
                forgotten.append(self._known.pop(oldest.key))
        return forgotten
