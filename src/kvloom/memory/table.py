"""The page table of one (sequence, layer group): which page holds which positions, and which entries are written."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from kvloom.memory.arena import page_stride
from kvloom.memory.format import PAGE_TOKENS, PageFormat
from kvloom.segment import PageId, Span, SpanSet

FULL_MASK = (1 << PAGE_TOKENS) - 1
_NO_PAGE = -1


@dataclass(slots=True)
class PageTable:
    """Grows as positions are reached. Page n holds positions ``[n * PAGE_TOKENS, (n + 1) * PAGE_TOKENS)``.

    ``trimmed``: pages below this one slid out of the window and were released.

    ``ids`` int32 (-1: no page), ``filled`` uint16 (bit s: entry s is written), ``writable`` 0 or 1 (this sequence alone
    holds the page, and it is not sealed). They are not numpy arrays because they are read and written element by
    element, for every sequence and step; the plan builder takes whole slices.

    ``start``: positions below this one are not read here, whatever its page holds of them: lists have them. ``gap``:
    nor are these.

    ``format`` is that of new pages. ``others``: which pages have another one, by format: those that were recoded.
    """

    format: PageFormat
    window: int | None
    ids: array[int] = field(default_factory=lambda: array("i", [_NO_PAGE] * 8))
    filled: array[int] = field(default_factory=lambda: array("H", [0] * 8))
    writable: bytearray = field(default_factory=lambda: bytearray(8))
    others: dict[PageFormat, set[int]] = field(default_factory=dict)
    trimmed: int = 0
    start: int = 0
    gap: Span | None = None

    def get(self, index: int) -> PageId | None:
        page = self.ids[index] if index < len(self.ids) else _NO_PAGE
        return None if page == _NO_PAGE else PageId(page)

    def put(self, index: int, page: PageId, *, filled: int, writable: bool, format: PageFormat | None = None) -> None:
        """``format``: the page's, if it differs from the table's."""
        self._reach(index)
        self.ids[index], self.filled[index], self.writable[index] = page, filled, writable
        if self.others:
            self._forget_format(index)
        if format is not None and format != self.format:
            self.others.setdefault(format, set()).add(index)

    def format_of(self, index: int) -> PageFormat:
        """The format of the page at ``index``."""
        for fmt, indices in self.others.items():
            if index in indices:
                return fmt
        return self.format

    def seal(self, index: int) -> None:
        """Mark a full, published page as no longer writable."""
        self.writable[index] = False

    def take(self, index: int) -> PageId:
        """Remove and return the page at ``index``."""
        page = PageId(self.ids[index])
        self.ids[index], self.filled[index], self.writable[index] = _NO_PAGE, 0, False
        if self.others:
            self._forget_format(index)
        return page

    def cut(self, length: int) -> None:
        """Mark positions from ``length`` on as not written; the pages beyond were removed before."""
        index, kept = divmod(length, PAGE_TOKENS)
        if index < len(self.filled):
            self.filled[index] &= (1 << kept) - 1

    def clear(self) -> None:
        """Remove all pages."""
        self.ids, self.filled, self.writable = array("i", [_NO_PAGE] * 8), array("H", [0] * 8), bytearray(8)
        self.others, self.trimmed, self.start, self.gap = {}, 0, 0, None

    def mark(self, span: Span) -> list[int]:
        """Mark ``span`` as written where writable; return the pages that this made full."""
        full: list[int] = []
        for index in range(span.start // PAGE_TOKENS, -(-span.stop // PAGE_TOKENS)):
            if not self.writable[index] or self.filled[index] == FULL_MASK:
                continue
            first = max(span.start - index * PAGE_TOKENS, 0)
            count = min(span.stop - index * PAGE_TOKENS, PAGE_TOKENS) - first
            self.filled[index] |= ((1 << count) - 1) << first
            if self.filled[index] == FULL_MASK:
                full.append(index)
        return full

    def hidden(self) -> dict[int, int]:
        """By index of a page that is cut by what is not read here: the entries of it that are read, as a mask."""
        masks: dict[int, int] = {}
        for start, stop in ((0, self.start), (self.gap.start, self.gap.stop) if self.gap else (0, 0)):
            for position in (start, stop):
                if position % PAGE_TOKENS:
                    index = position // PAGE_TOKENS
                    first = max(0, start - index * PAGE_TOKENS)
                    end = min(PAGE_TOKENS, stop - index * PAGE_TOKENS)
                    masks[index] = masks.get(index, FULL_MASK) & ~(((1 << end) - 1) & ~((1 << first) - 1))
        return masks

    def pages(self) -> Iterator[tuple[int, PageId]]:
        """(index, page) of every page, ascending."""
        for index in np.flatnonzero(np.frombuffer(self.ids, np.int32) != _NO_PAGE).tolist():
            yield index, PageId(self.ids[index])

    def index_of(self, page: PageId) -> int | None:
        """Index of a page; None when the table does not contain it."""
        try:
            return self.ids.index(page)
        except ValueError:
            return None

    def is_full(self, index: int) -> bool:
        """True when all entries of page ``index`` are written."""
        return index < len(self.filled) and self.filled[index] == FULL_MASK

    def count(self) -> int:
        return len(self.ids) - self.ids.count(_NO_PAGE)

    def held_bytes(self) -> int:
        """Bytes of all its pages, each by its own format."""
        others = {fmt: len(indices) for fmt, indices in self.others.items()}
        own = self.count() - sum(others.values())
        return own * page_stride(self.format) + sum(page_stride(fmt) * count for fmt, count in others.items())

    def ids_in(self, fmt: PageFormat) -> array[int]:
        """``ids`` with only the pages of this format. Not to be modified."""
        if not self.others and fmt == self.format:
            return self.ids
        if fmt != self.format:
            ids = array("i", [_NO_PAGE]) * len(self.ids)
            for index in self.others.get(fmt, ()):
                ids[index] = self.ids[index]
            return ids
        ids = array("i", self.ids)
        for indices in self.others.values():
            for index in indices:
                ids[index] = _NO_PAGE
        return ids

    def reach(self, length: int) -> None:
        """Have entries for the pages of so many positions, though they may not be there."""
        if length > 0:
            self._reach((length - 1) // PAGE_TOKENS)

    def resident(self) -> SpanSet:
        """Positions whose KV is written."""
        spans = []
        for index, _ in self.pages():
            mask, base = self.filled[index], index * PAGE_TOKENS
            spans += [Span(base + s, base + s + 1) for s in range(PAGE_TOKENS) if mask >> s & 1]
        return SpanSet.of(spans)

    def _forget_format(self, index: int) -> None:
        for fmt, indices in list(self.others.items()):
            indices.discard(index)
            if not indices:
                del self.others[fmt]

    def _reach(self, index: int) -> None:
        size = len(self.ids)
        if index < size:
            return
        extra = max(size, index + 1 - size)
        self.ids.extend([_NO_PAGE] * extra)
        self.filled.extend([0] * extra)
        self.writable.extend(bytes(extra))


def page_span(index: int) -> Span:
    """The positions of a page."""
    return Span(index * PAGE_TOKENS, (index + 1) * PAGE_TOKENS)


def page_indices(spans: SpanSet) -> list[int]:
    """Pages touched by any of the spans, ascending, each once."""
    touched: list[int] = []
    for span in spans:
        first = span.start // PAGE_TOKENS
        if touched and touched[-1] == first:
            first += 1
        touched += range(first, -(-span.stop // PAGE_TOKENS))
    return touched
