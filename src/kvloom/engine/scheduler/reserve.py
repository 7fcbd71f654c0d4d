"""Reserve: take all the memory that a waiting sequence lacks, and pin its hits, or take nothing at all."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from kvloom.engine.fusible import lists_left
from kvloom.engine.kv import PageNames, Results, SequenceKv
from kvloom.engine.kv.fused import lists_of
from kvloom.engine.kv.passage import entries_in_ram
from kvloom.engine.layout import KvLayout
from kvloom.engine.request import Request, Sequence
from kvloom.engine.scheduler.match import Match
from kvloom.memory.format import PAGE_TOKENS, PageFormat
from kvloom.memory.keys import chunk_root, page_key
from kvloom.memory.ledger import Ledger
from kvloom.memory.table import page_indices
from kvloom.policy.compression import Compression
from kvloom.policy.compression.identity import identity_of
from kvloom.segment import SpanSet


@dataclass(frozen=True, slots=True)
class Reserve:
    """Reserves for all that is missing before anything is pinned: no two requests can wait for each other's segments.

    Layer groups with a window take pages chunk by chunk instead (they give them back as they go); for those the room is
    only checked. ``lead``: what begins documents that are computed alone.
    """

    ledger: Ledger
    layout: KvLayout
    results: Results
    lead: tuple[int, ...] = ()

    def try_start(self, sequence: Sequence, match: Match, headroom: int) -> bool:
        """False: no room, and nothing is taken.

        ``headroom``: pages of each format to leave for the growth of those already running. Beside others, it must have
        room for its lists as well when its context will be compressed: or it would begin again and again.
        """
        kv, wanted = sequence.kv, match.missing | match.pending
        if match.result is None and (kv.repeated or kv.stride or kv.fuses):  # the rest takes room when it begins
            wanted = wanted & SpanSet.full(kv.horizon)
        needs = self._needs(match, wanted, headroom)
        if headroom and match.result is None and kv.boundary and not kv.stride:
            needs += self._lists(sequence)
        if headroom and kv.fuses:
            needs += self._beside_documents(sequence)
        if not self.ledger.fits(needs, match.pages):
            return False
        if match.result is not None:
            kv.adopt_result(match.result)
        for hit in match.hits:
            kv.adopt(hit.group, hit.index, hit.page)
        sources = [(page, copy.index * PAGE_TOKENS) for copy in match.copies for _, page in copy.pages]
        for page, start in sources:  # all before the first copy: making room for one must not drop another's source
            self.ledger.hold(page, kv.owner, kv.cache.hints_from(start))
        fits = (
            self._copies(kv, match)
            and self._lossy(kv, match)
            and kv.reserve(wanted, self._unwindowed())
            and self._windowed(kv, match)
        )
        self.ledger.release([page for page, _ in sources], kv.owner)
        if fits:
            kv.start(match.missing | match.pending)
            return True
        kv.release()
        return False

    def _copies(self, kv: SequenceKv, match: Match) -> bool:
        return all(
            kv.copy_in(group, copy.index, page, copy.tokens) for copy in match.copies for group, page in copy.pages
        )

    def _lossy(self, kv: SequenceKv, match: Match) -> bool:
        return all(kv.reserve_lossy(load.group, load.index, load.codec) for load in match.loads if load.codec)

    def _windowed(self, kv: SequenceKv, match: Match) -> bool:
        """Pages to load for layer groups that take others chunk by chunk."""
        windows = self.layout.windows
        loads = [load for load in match.loads if windows[load.group] is not None]
        return all(kv.reserve(SpanSet((load.span,)), [load.group]) for load in loads)

    def _unwindowed(self) -> list[int]:
        return [group for group, window in enumerate(self.layout.windows) if window is None]

    def _needs(self, match: Match, wanted: SpanSet, headroom: int) -> Counter[PageFormat]:
        touched = set(page_indices(wanted))
        needs: Counter[PageFormat] = Counter()
        for group, fmt in enumerate(self.layout.formats):
            shared = {hit.index for hit in match.hits if hit.group == group}
            copied = {copy.index for copy in match.copies if any(g == group for g, _ in copy.pages)}
            lossy = {load.index: load.codec for load in match.loads if load.group == group and load.codec}
            needs.update(fmt.recoded(codec) for codec in lossy.values())
            fresh = (touched | copied) - shared - set(lossy)
            stop = wanted.spans[-1].stop if wanted else 0
            needs[fmt] += min(len(fresh), self.layout.pages_for(group, stop)) + headroom
        return needs

    def _beside_documents(self, sequence: Sequence) -> Counter[PageFormat]:
        """Pages of what a fused prompt shares with nobody, and of its documents those that nobody holds."""
        request, needs = sequence.request, Counter[PageFormat]()
        assert request.fusion is not None
        question = request.cache.spans[-1][1]
        rows = request.fusion.counts(question)[0]
        for fmt, pages in lists_of(self.layout, request.fusion.exact_layers, sequence.num_prompt, rows):
            needs[fmt] += 1 if fmt.in_extents else pages
        computed_alone = request.cache.spans if request.cache.source is None else ()
        if (compression := request.of_documents) is not None:
            computed_alone = tuple(each for each in computed_alone if not self._is_left(request, compression, *each))
            for start, stop in computed_alone:
                for fmt, pages in lists_left(self.layout, compression, len(self.lead) + stop - start):
                    needs[fmt] += pages
        unheld = sum(self._unheld(request, start, stop) for start, stop in computed_alone)
        for fmt in self.layout.formats:
            needs[fmt] += unheld
        return needs

    def _unheld(self, request: Request, start: int, stop: int) -> int:
        tokens = [*self.lead, *request.prompt_token_ids[start:stop]]
        entries = entries_in_ram(self.ledger.index, chunk_root(request.root), tokens)
        pages = [None if entry is None else entry.pages[0] for entry in entries]
        return sum(page is None or not self.ledger.holders(page) for page in pages)

    def _is_left(self, request: Request, compression: Compression, start: int, stop: int) -> bool:
        """Whether what a compression leaves of a document is there."""
        tokens = [*self.lead, *request.prompt_token_ids[start:stop]]
        names = PageNames(chunk_root(request.root), tokens, limit=len(tokens), method_id=identity_of(compression))
        names.extend()
        left = names.left()
        return left is not None and page_key(*left) in self.results

    def _lists(self, sequence: Sequence) -> Counter[PageFormat]:
        """Pages for what is left of its context."""
        compression, needs = sequence.request.cache.compression, Counter[PageFormat]()
        if compression is not None and compression.ratio is not None:
            tokens, rest = sequence.kv.boundary, compression.compactor.rest
            for fmt, pages in self.layout.lists_of(tokens, compression.ratio, rest):
                needs[fmt] += pages
        return needs
