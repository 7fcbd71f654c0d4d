"""What is remembered of blocks that were evicted, in case they come back."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Generic, TypeVar

from kvloom.policy.events import Block, Format
from kvloom.segment import PageKey

_PER_STORED = 8
_LEAST = 1024
"""So many ghosts are kept for every stored block, and that many at least."""

Known = TypeVar("Known")


class Ghosts(Generic[Known]):
    """By contents and format, up to a number of them; the first to be evicted are the first to be forgotten.

    Slabs, which have no contents of their own, are not remembered.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[Format, PageKey], Known] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def take(self, block: Block) -> Known | None:
        """What is known of these contents, which are stored again."""
        return None if block.key is None else self._known.pop((block.format, block.key), None)

    def put(self, block: Block, known: Known, stored: int) -> Sequence[Known]:
        """``stored``: how many blocks are. Returns what is forgotten for it, perhaps ``known`` itself."""
        if block.key is None:
            return (known,)
        before = self.take(block)
        forgotten = [] if before is None else [before]
        self._known[block.format, block.key] = known
        while len(self._known) > max(_LEAST, _PER_STORED * stored):
            forgotten.append(self._known.popitem(last=False)[1])
        return forgotten
