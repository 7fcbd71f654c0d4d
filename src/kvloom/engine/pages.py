"""A sequence's pages: taken, shared, written, published and given back, all through the ledger."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from kvloom.engine.request import Sequence
from kvloom.memory.arena import GRAIN_BYTES
from kvloom.memory.format import PAGE_TOKENS
from kvloom.memory.ledger import Identity, Ledger
from kvloom.memory.table import PageTable
from kvloom.segment import PageId, Span, SpanSet


@dataclass(frozen=True, slots=True)
class Pages:
    """What the scheduler and the commit do to page tables. Stateless: all state is in the ledger and the tables."""

    ledger: Ledger

    def secure(self, sequence: Sequence, spans: SpanSet, groups: Iterable[int]) -> bool:
        """Give all of ``spans`` a place to be written, in these layer groups. False: no room (what was got stays)."""
        for group in groups:
            table = sequence.tables[group]
            for index in page_indices(spans):
                if not self._secure_page(sequence.owner, table, index, spans):
                    return False
        return True

    def copy_in(self, sequence: Sequence, group: int, index: int, source: PageId, tokens: int) -> bool:
        """Start page ``index`` as a private copy of the first ``tokens`` entries of ``source``. False: no room.

        The caller holds ``source``: making room for the copy must not drop it.
        """
        table = sequence.tables[group]
        page = self.ledger.allocate(table.format, sequence.owner)
        if page is None:
            return False
        self._copy(source, page, table)
        table.put(index, page, filled=(1 << tokens) - 1, writable=True)
        return True

    def share(self, parent: Sequence, child: Sequence) -> None:
        """Fork: the child holds all of the parent's pages; whoever writes to a shared one first copies it."""
        child.keys, child.contents = list(parent.keys), list(parent.contents)
        for mine, theirs in zip(parent.tables, child.tables, strict=True):
            for index, page in mine.pages():
                self.ledger.hold(page, child.owner)
                fmt = mine.format_of(index)
                theirs.put(index, page, filled=mine.filled[index], writable=False, format=fmt)
                mine.writable[index] = False

    def written(self, sequence: Sequence, spans: SpanSet) -> None:
        """The step wrote ``spans``: publish the pages that are now full."""
        for group, table in enumerate(sequence.tables):
            for span in spans:
                for index in table.mark(span):
                    self._publish(sequence, group, index, PAGE_TOKENS)
                    table.seal(index)
        for index in page_indices(spans) if sequence.announced else ():
            if all(table.get(index) is None or table.is_full(index) for table in sequence.tables):
                self._keep_promise(sequence, index)

    def trim_windows(self, sequence: Sequence, next_position: int) -> None:
        """Give back the pages that no row from ``next_position`` on can see through a window."""
        for table in sequence.tables:
            if table.window is None:
                continue
            low = max(0, next_position - table.window + 1) // PAGE_TOKENS
            gone = [table.take(index) for index, _ in list(table.pages()) if index < low]
            self.ledger.release(gone, sequence.owner)

    def held_bytes(self, sequence: Sequence) -> int:
        """Bytes of the pages in its tables, shared ones included."""
        return sum(table.held_bytes() for table in sequence.tables)

    def retire(self, sequence: Sequence) -> None:
        """Let go of everything. The unfinished last page is published first, so that a follow-up can copy it."""
        self._publish_tail(sequence)
        for key in sequence.announced:
            self.ledger.index.withdraw(key, sequence.owner)
        sequence.announced.clear()
        pages = [table.take(index) for table in sequence.tables for index, _ in reversed(list(table.pages()))]
        self.ledger.release(pages, sequence.owner)

    def abandon(self, sequence: Sequence) -> None:
        """Let go of everything after a failure, in whatever state it left the tables. Nothing more is published."""
        for key in sequence.announced:
            self.ledger.index.withdraw(key, sequence.owner)
        sequence.announced.clear()
        for table in sequence.tables:
            for index, _ in list(table.pages()):
                table.take(index)
        self.ledger.abandon(sequence.owner)

    # -- inside ----------------------------------------------------------------------------------------------------

    def _secure_page(self, owner: str, table: PageTable, index: int, spans: SpanSet) -> bool:
        old = table.get(index)
        if old is None:
            page = self.ledger.allocate(table.format, owner)
            if page is None:
                return False
            table.put(index, page, filled=0, writable=True)
            return True
        if table.writable[index] or not _unwritten(table, index, spans):
            return True
        if self.ledger.holders(old) == 1 and old not in self.ledger.index:
            table.writable[index] = True  # the other holders of a fork are gone
            return True
        page = self.ledger.copy(old, owner)
        if page is None:
            return False
        table.put(index, page, filled=table.filled[index], writable=True, format=table.format_of(index))
        self.ledger.release([old], owner)
        return True

    def _keep_promise(self, sequence: Sequence, index: int) -> None:
        if index < len(sequence.keys) and sequence.keys[index] in sequence.announced:
            self.ledger.index.withdraw(sequence.keys[index], sequence.owner)
            sequence.announced.discard(sequence.keys[index])

    def _publish(self, sequence: Sequence, group: int, index: int, size: int) -> None:
        """Publish one page; if its twin was there first, share that one and free ours.

        A request that does not read the cache keeps its own; of one that does not write it, nothing is published.
        """
        if not sequence.request.cache.write:
            return
        sequence.extend_identity()
        table = sequence.tables[group]
        page = table.get(index)
        assert page is not None
        tokens = tuple(sequence.page_tokens(index)[:size])
        content = sequence.contents[index] if size == PAGE_TOKENS else 0
        identity = Identity(sequence.parent_key(index), tokens, index * PAGE_TOKENS, content, group)
        findable = self.ledger.publish(page, identity)
        if findable != page and sequence.request.cache.read:
            self.ledger.hold(findable, sequence.owner)
            table.put(index, findable, filled=(1 << size) - 1, writable=False)
            self.ledger.release([page], sequence.owner)

    def _publish_tail(self, sequence: Sequence) -> None:
        covered = len(sequence.tokens) - len(sequence.gaps)
        index, size = divmod(covered, PAGE_TOKENS)
        if not size or sequence.gaps != SpanSet.full(len(sequence.tokens)) - SpanSet.full(covered):
            return
        for group, table in enumerate(sequence.tables):
            page = table.get(index)
            if page is not None and page not in self.ledger.index and table.filled[index] == (1 << size) - 1:
                self._publish(sequence, group, index, size)

    def _copy(self, source: PageId, target: PageId, table: PageTable) -> None:
        memory, size = self.ledger.arena.memory, table.format.page_bytes
        start, stop = source * GRAIN_BYTES, target * GRAIN_BYTES
        memory[stop : stop + size] = memory[start : start + size]


def page_indices(spans: SpanSet) -> list[int]:
    """Pages touched by any of the spans, ascending, each once."""
    touched: list[int] = []
    for span in spans:
        first = span.start // PAGE_TOKENS
        if touched and touched[-1] == first:
            first += 1
        touched += range(first, -(-span.stop // PAGE_TOKENS))
    return touched


def _unwritten(table: PageTable, index: int, spans: SpanSet) -> bool:
    """True when some position of ``spans`` on this page is not written yet."""
    page = Span(index * PAGE_TOKENS, (index + 1) * PAGE_TOKENS)
    filled = table.filled[index]
    return any(not filled >> (p - page.start) & 1 for span in SpanSet((page,)) & spans for p in span.positions())
