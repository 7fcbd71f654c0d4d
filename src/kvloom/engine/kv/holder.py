"""The pages that one owner holds, one by one: every change goes through the ledger."""

from __future__ import annotations

from dataclasses import dataclass, field

from kvloom.memory.format import PAGE_TOKENS, PageFormat
from kvloom.memory.ledger import Ledger
from kvloom.memory.table import PageTable, page_span
from kvloom.policy.events import Hints
from kvloom.segment import PageId, SpanSet


@dataclass(slots=True, eq=False)
class Holder:
    """Puts pages into page tables and takes them out.

    ``loose``: pages that it may hold outside the tables. A page is recorded here or in its table from before it is
    allocated until after it is released, so that everything held can be named after any failure.
    """

    ledger: Ledger
    owner: str
    hints: Hints
    loose: list[PageId] = field(default_factory=list)

    def reserve(self, table: PageTable, index: int, spans: SpanSet) -> bool:
        """Make the unwritten part of ``spans`` on page ``index`` writable. False: no room."""
        old = table.get(index)
        if old is None:
            page = self.ledger.allocate(table.format, self.owner)
            if page is None:
                return False
            table.put(index, page, filled=0, writable=True)
            return True
        if table.writable[index] or not _unwritten(table, index, spans):
            return True
        if self.ledger.holders(old) == 1 and old not in self.ledger.index:
            table.writable[index] = True  # the other holders of a fork are gone
            return True
        fmt = table.format_of(index)
        page = self.ledger.allocate(fmt, self.owner)
        if page is None:
            return False
        self.loose.append(page)
        self.ledger.arena.copy(old, page, fmt)
        self._exchange(table, index, page, filled=table.filled[index], writable=True, format=fmt)
        return True

    def reserve_recoded(self, table: PageTable, index: int, fmt: PageFormat) -> bool:
        """Make a page of another format writable where there is none. False: no room."""
        page = self.ledger.allocate_recoded(fmt, self.owner)
        if page is None:
            return False
        table.put(index, page, filled=0, writable=True, format=fmt)
        return True

    def adopt(self, table: PageTable, index: int, page: PageId, tokens: int = PAGE_TOKENS) -> None:
        """Hold an already stored page with this many entries, replacing the current one."""
        self.loose.append(page)
        self.ledger.hold(page, self.owner, self.hints)
        self._exchange(table, index, page, filled=(1 << tokens) - 1, writable=False, format=table.format)

    def copy_in(self, table: PageTable, index: int, source: PageId, tokens: int) -> bool:
        """Start page ``index`` as a private copy of the first ``tokens`` entries of ``source``. False: no room.

        The caller holds ``source``: making room for the copy must not drop it.
        """
        page = self.ledger.allocate(table.format, self.owner)
        if page is None:
            return False
        table.put(index, page, filled=(1 << tokens) - 1, writable=True)
        self.ledger.arena.copy(source, page, table.format)
        return True

    def share(self, table: PageTable, index: int, theirs: PageTable) -> None:
        """Hold page ``index`` of another sequence's table as well: the first to write to it copies it."""
        page = theirs.get(index)
        assert page is not None
        table.put(index, page, filled=theirs.filled[index], writable=False, format=theirs.format_of(index))
        self.ledger.hold(page, self.owner, self.hints)
        theirs.writable[index] = False

    def give_back(self, table: PageTable, indices: list[int]) -> None:
        """Release pages of a table, in this order; absent ones are skipped."""
        pages = [page for index in indices if (page := table.get(index)) is not None]
        if pages:
            self.ledger.release(pages, self.owner)
            for index in indices:
                table.take(index)

    def let_go(self, pages: list[PageId]) -> None:
        """Release ``loose`` pages."""
        if pages:
            self.ledger.release(pages, self.owner)
            for page in pages:
                self.loose.remove(page)

    # -- inside ----------------------------------------------------------------------------------------------------

    def _exchange(
        self, table: PageTable, index: int, page: PageId, *, filled: int, writable: bool, format: PageFormat
    ) -> None:
        """Move a page from ``loose`` into its place and release the previous one."""
        old = table.get(index)
        table.put(index, page, filled=filled, writable=writable, format=format)
        self.loose.remove(page)
        if old is not None:
            self.loose.append(old)
            self.let_go([old])


def _unwritten(table: PageTable, index: int, spans: SpanSet) -> bool:
    """True when some position of ``spans`` on this page is not written yet."""
    page = page_span(index)
    filled = table.filled[index]
    return any(not filled >> (p - page.start) & 1 for span in SpanSet((page,)) & spans for p in span.positions())
