"""Fit: take all the memory that a waiting sequence's gaps need, and pin its hits, or take nothing at all."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from kvloom.engine.layout import KvLayout
from kvloom.engine.pages import Pages, page_indices
from kvloom.engine.request import Sequence
from kvloom.engine.scheduler.match import Match
from kvloom.memory.format import PageFormat
from kvloom.memory.ledger import NoFit
from kvloom.memory.table import FULL_MASK


@dataclass(frozen=True, slots=True)
class Fit:
    """Reserves for all gaps before anything is pinned, so two requests cannot wait for each other's segments.

    Layer groups with a window take pages chunk by chunk instead (they give them back as they go); for those the room is
    only checked.
    """

    pages: Pages
    layout: KvLayout

    def try_start(self, sequence: Sequence, match: Match, headroom: int) -> NoFit | None:
        """None on success. ``headroom``: pages of each format to leave for the growth of those already running."""
        pinned = {hit.page for hit in match.hits}
        pinned |= {page for copy in match.copies for _, page in copy.pages}
        lacking = self.pages.ledger.fits(self._needs(match, headroom), pinned)
        if lacking is not None:
            return lacking
        for hit in match.hits:
            self.pages.ledger.hold(hit.page, sequence.owner)
            sequence.tables[hit.group].put(hit.index, hit.page, filled=FULL_MASK, writable=False)
        sources = [page for copy in match.copies for _, page in copy.pages]
        for page in sources:  # all of them before the first copy: making room for one must not drop another's source
            self.pages.ledger.hold(page, sequence.owner)
        fitted = self._copies(sequence, match) and self.pages.secure(sequence, match.gaps, self._unwindowed())
        self.pages.ledger.release(sources, sequence.owner)
        if fitted:
            sequence.gaps = match.gaps
            return None
        self.pages.retire(sequence)
        return NoFit(sum(fmt.page_bytes for fmt in self.layout.formats))

    def _copies(self, sequence: Sequence, match: Match) -> bool:
        return all(
            self.pages.copy_in(sequence, group, copy.index, page, copy.tokens)
            for copy in match.copies
            for group, page in copy.pages
        )

    def _unwindowed(self) -> list[int]:
        return [group for group, window in enumerate(self.layout.windows) if window is None]

    def _needs(self, match: Match, headroom: int) -> Counter[PageFormat]:
        touched = set(page_indices(match.gaps))
        needs: Counter[PageFormat] = Counter()
        for group, fmt in enumerate(self.layout.formats):
            shared = {hit.index for hit in match.hits if hit.group == group}
            copied = {copy.index for copy in match.copies if any(g == group for g, _ in copy.pages)}
            fresh = (touched | copied) - shared
            needs[fmt] = min(len(fresh), self.layout.pages_for(group, self._end(match))) + headroom
        return needs

    @staticmethod
    def _end(match: Match) -> int:
        return match.gaps.spans[-1].stop
