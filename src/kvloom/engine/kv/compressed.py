"""A document of which a prompt reads what a method of compression leaves: computed alone, and compressed once for all.

The method knows nothing of prompts and questions, so what it leaves is kept under a name of its own (``Results``) for
everybody who asks for the same of the same document. While it is made, the document's exact KV is found, or computed
and published, like that of any document.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from kvloom.arrays import Bytes
from kvloom.attend.lists import HeadLists, MoreLists
from kvloom.engine.kv.fused import Positions, Read, masks_of
from kvloom.engine.kv.passage import PassageKv
from kvloom.engine.kv.replacement import Replacement
from kvloom.engine.kv.results import Results
from kvloom.engine.kv.sequence import SequenceKv
from kvloom.errors import InternalError
from kvloom.memory.arena import page_stride
from kvloom.memory.cells import all_labels
from kvloom.memory.format import PageFormat
from kvloom.memory.ledger import Extent
from kvloom.memory.table import FULL_MASK
from kvloom.policy.compression import Compression
from kvloom.segment import PageId, Span, SpanSet

_SLICE_S = 0.02


@dataclass(frozen=True, slots=True, eq=False)
class ListsRead:
    """What is left of a document where a prompt has it, which was computed at positions from ``at`` on.

    ``lists``, ``extents``: by layer group. Entries before position ``at`` are not read.
    """

    span: Span
    at: int
    lists: tuple[tuple[HeadLists, ...], ...]
    extents: tuple[tuple[Extent, ...], ...]
    memory: Bytes

    def held(self, group: int, fmt: PageFormat) -> dict[PageId, int]:
        return {extent.page: len(extent.pages) * page_stride(extent.format) for extent in self.extents[group]}

    def from_position(self, first: int) -> Read | None:
        """All of it, if anything of it stands there."""
        return None if self.span.stop <= first else self

    def lists_of(self, group: int, fmt: PageFormat, without: Positions) -> list[MoreLists]:
        return [self._moved(lists, without) for lists in self.lists[group] if lists.page_ids_P.size]

    def _moved(self, lists: HeadLists, without: Positions) -> HeadLists:
        shift = self.span.start - self.at
        positions_PS, _ = all_labels(self.memory, lists.format, lists.page_ids_P)
        shown_PS = (positions_PS >= self.at) & ~np.isin(positions_PS + shift, without)
        masks_P = np.full(len(shown_PS), FULL_MASK, np.uint16) if lists.masks_P is None else lists.masks_P
        return replace(lists, masks_P=masks_P & masks_of(shown_PS.reshape(-1)), shift=shift, stop=0)


@dataclass(slots=True, eq=False)
class CompressedKv:
    """``kv``: of the ``lead`` and the document, all of which are compressed. ``clock``: in seconds. ``threads``: how
    many cores to use at most.
    """

    passage: PassageKv
    compression: Compression
    results: Results
    clock: Callable[[], float]
    threads: int
    begun: bool = field(default=False, init=False)

    @property
    def span(self) -> Span:
        return self.passage.span

    @property
    def kv(self) -> SequenceKv:
        return self.passage.kv

    def begin(self) -> bool:
        """Read what is left of it, or hold what there is of it. False: somebody is making one or the other."""
        kv = self.kv
        kv.names.extend()
        if kv.cache.read and (result := self.results.find(kv)) is not None:
            kv.adopt_result(result)
            self.begun = True
        elif not kv.cache.read or self.results.coming_from(kv) is None:
            self.begun = self.passage.begin()
        return self.begun

    def let_go(self) -> None:
        """Hold nothing, as before ``begin``."""
        self.passage.let_go()
        self.begun = False

    @property
    def lacking(self) -> int:
        """Tokens of the document that are to be computed."""
        return self.passage.lacking

    def make_room(self) -> bool:
        """For what is to be computed; when all is there, compress a little more of it. False: there is no room."""
        if self.complete:
            return True
        if not self.passage.complete:
            return self.passage.make_room()
        kv, stop_s = self.kv, self.clock() + _SLICE_S
        if kv.underway is None:
            kv.keep_tail()
            kv.underway = Replacement(kv, kv.boundary, self.compression, threads=self.threads)
        replacement = kv.underway
        if not replacement.decide(lambda: self.clock() >= stop_s):
            return True
        if not replacement.carry_out():
            return False
        self.results.keep(kv, replacement.kept)
        return True

    @property
    def compressing(self) -> bool:
        return self.kv.underway is not None

    @property
    def left(self) -> SpanSet:
        """Positions of ``kv`` that can be computed now."""
        return SpanSet() if self.complete else self.passage.left

    @property
    def complete(self) -> bool:
        return self.begun and self.kv.replaced == self.kv.boundary

    def reads(self) -> list[Read]:
        """When it is complete: what is left of it, where the prompt has it."""
        kv = self.kv
        lists = tuple(tuple(_by_head(one) for one in of_group) for of_group in kv.lists)
        return [ListsRead(self.span, self.passage.lead, lists, kv.extents, kv.ledger.arena.memory)]


def _by_head(lists: MoreLists) -> HeadLists:
    if not isinstance(lists, HeadLists):
        raise InternalError("a compression has left pages of all heads")
    return lists
