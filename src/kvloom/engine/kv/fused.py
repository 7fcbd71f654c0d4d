"""What a sequence reads of documents that were computed elsewhere: their pages as they lie, and its own rows over them.

layers          prefix        documents                                    question, answer
below a split   [ a table of their own: everything computed in this request ............. )
the others      [ table   )[ pages of documents, shared, without what is in the overlay   )[ table       )
                           [ overlay: rows computed again, labelled with their positions  )
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from kvloom.attend.lists import MoreLists, SequenceList
from kvloom.attend.plan import Contiguous, Labelled
from kvloom.engine.kv.sequence import SequenceKv, Split
from kvloom.engine.layout import KvLayout
from kvloom.memory.arena import page_stride
from kvloom.memory.cells import page_cells
from kvloom.memory.format import PAGE_TOKENS, PageFormat
from kvloom.memory.ledger import Extent
from kvloom.memory.table import PageTable
from kvloom.segment import PageId, Span

Positions = npt.NDArray[np.int64]


def lower_format(dense: PageFormat, layers: int) -> PageFormat | None:
    """Pages for those of a layer group's layers that are below number ``layers``; None: there are none."""
    mine = tuple(layer for layer in dense.layers if layer < layers)
    return replace(dense, name=f"{dense.name}-below-{layers}", layers=mine) if mine else None


def overlay_format(dense: PageFormat) -> PageFormat:
    """Pages for rows at any positions."""
    return replace(dense, name=f"{dense.name}-overlay", labelled=True)


def split_below(layout: KvLayout, layers: int) -> Split | None:
    """Tables of their own for the first ``layers`` layers."""
    having = [group for group, fmt in enumerate(layout.formats) if fmt.layers[0] < layers]
    return Split(layers, {group: len(layout.formats) + n for n, group in enumerate(having)}) if having else None


def lower_tables(layout: KvLayout, split: Split) -> tuple[PageTable, ...]:
    """Empty, in the order of their numbers."""
    tables = []
    for group in split.tables:
        fmt = lower_format(layout.formats[group], split.layer)
        assert fmt is not None
        tables.append(PageTable(fmt, layout.windows[group]))
    return tuple(tables)


def lists_of(layout: KvLayout, layers: int, tokens: int, rows: int) -> list[tuple[PageFormat, int]]:
    """(format, pages) of what is not shared: tables of the first ``layers`` layers, and room for so many ``rows``."""
    lower = [fmt for dense in layout.formats if (fmt := lower_format(dense, layers)) is not None]
    overlays = [(overlay_format(dense), Overlay.pages_for(rows)) for dense in layout.formats if rows]
    return [(fmt, -(-tokens // PAGE_TOKENS)) for fmt in lower] + overlays


class Read(Protocol):
    """KV of a document where a prompt has it."""

    @property
    def span(self) -> Span: ...
    def held(self, group: int, fmt: PageFormat) -> dict[PageId, int]:
        """What is held of it in a layer group, and the bytes of that; extents by their first pages."""
        ...

    def from_position(self, first: int) -> Read | None:
        """What rows still see to which nothing before position ``first`` of the prompt is visible. None: nothing."""
        ...

    def lists_of(self, group: int, fmt: PageFormat, without: Positions) -> list[MoreLists]:
        """How it is read in a layer group, but for entries at these positions of the prompt, which ascend."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class PagesRead:
    """A document where a prompt has it, which was computed elsewhere, at positions from ``at`` on.

    ``pages``: by layer group, from the page on in which that position lies.
    """

    span: Span
    at: int
    pages: Sequence[Sequence[PageId]]

    @property
    def shift(self) -> int:
        """How far its entries stand above where they were computed."""
        return self.span.start - self.at

    @property
    def base(self) -> int:
        """The position at which its first page begins."""
        return self.at // PAGE_TOKENS * PAGE_TOKENS

    def held(self, group: int, fmt: PageFormat) -> dict[PageId, int]:
        return dict.fromkeys(self.pages[group], page_stride(fmt))

    def from_position(self, first: int) -> Read | None:
        """Its entries at positions of the prompt from ``first`` on, and others on the page with that. None: none."""
        if self.span.stop <= first:
            return None
        gone = max(0, first - self.shift - self.base) // PAGE_TOKENS
        at = max(self.at, self.base + gone * PAGE_TOKENS)
        pages = [of_group[gone:] for of_group in self.pages]
        return PagesRead(Span(self.span.start + at - self.at, self.span.stop), at, pages)

    def lists_of(self, group: int, fmt: PageFormat, without: Positions) -> list[MoreLists]:
        stored = self.base + np.arange(len(self.pages[group]) * PAGE_TOKENS)
        there = (stored >= self.at) & (stored < self.at + len(self.span))
        hidden = without[np.searchsorted(without, self.span.start) : np.searchsorted(without, self.span.stop)]
        there[hidden - self.shift - self.base] = False
        masks_P = masks_of(there)
        read = np.flatnonzero(masks_P)
        if not read.size:
            return []
        ids_P = np.array(self.pages[group], np.int32)[read]
        starts_P = (self.base + read * PAGE_TOKENS).astype(np.int32)
        return [SequenceList(fmt, Contiguous(starts_P), ids_P, masks_P[read], self.shift)]


@dataclass(frozen=True, slots=True, eq=False)
class Overlay:
    """Room for the rows at ``positions``, which ascend, in an extent of each layer group."""

    positions: Positions
    extents: tuple[Extent, ...]

    @staticmethod
    def pages_for(rows: int) -> int:
        return -(-rows // PAGE_TOKENS)

    def label(self, kv: SequenceKv) -> None:
        """Write their labels: no row's KV is there yet. Unused entries stand where nobody looks."""
        memory = kv.ledger.arena.memory
        labels = np.full(self.pages_for(len(self.positions)) * PAGE_TOKENS, np.iinfo(np.int32).max, np.int32)
        labels[: len(self.positions)] = self.positions
        for extent in self.extents:
            fmt = extent.format
            at = fmt.k_bytes + fmt.v_bytes
            for page, labels_S in zip(extent.pages, labels.reshape(-1, PAGE_TOKENS), strict=True):
                cells = page_cells(memory, fmt, page)
                cells[:, at:] = 0
                cells[:, at : at + 4 * PAGE_TOKENS] = labels_S.view(np.uint8)

    def list_of(self, group: int, rows: Positions) -> SequenceList | None:
        """Its entries at these positions, which ascend. None: there are none."""
        extent = self.extents[group]
        shown = np.zeros(len(extent.pages) * PAGE_TOKENS, np.bool_)
        shown[np.searchsorted(self.positions, rows)] = True
        masks_P = masks_of(shown)
        read = np.flatnonzero(masks_P)
        if not read.size:
            return None
        return SequenceList(extent.format, Labelled(), np.array(extent.pages, np.int32)[read], masks_P[read])

    def places(self, group: int, positions_T: npt.NDArray[np.int32]) -> tuple[Positions, Positions]:
        """(rows, entries) of those rows that have a place here: the entry's number, over all pages."""
        entries = np.searchsorted(self.positions, positions_T)
        inside = entries < len(self.positions)
        rows = np.flatnonzero(inside)
        rows = rows[self.positions[entries[rows]] == positions_T[rows]]
        return rows, entries[rows]


@dataclass(frozen=True, slots=True, eq=False)
class Again:
    """Rows at these positions, which ascend, were computed again, and are read in place of old ones: by layers below
    ``stop``, and not below that of another one; None: by all others.
    """

    rows: Positions
    stop: int | None = None


def masks_of(there: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint16]:
    """Of entries that are there, page by page."""
    bits_PS = there.reshape(-1, PAGE_TOKENS) << np.arange(PAGE_TOKENS)
    masks_P: npt.NDArray[np.uint16] = bits_PS.sum(axis=1).astype(np.uint16)
    return masks_P


def forget_passed(
    kv: SequenceKv, reads: Sequence[Read], overlay: Overlay | None, again: Sequence[Again], first: int
) -> None:
    """Of layer groups with a window, let go of what no row from position ``first`` on sees of documents."""
    for group, table in enumerate(kv.tables[: len(kv.scores)]):
        if table.window is None:
            continue
        oldest = first - table.window + 1
        seen = [each for read in reads if (each := read.from_position(oldest)) is not None]
        kept = {page for read in seen for page in read.held(group, table.format)}
        still = overlay if overlay is not None and overlay.positions[-1] >= oldest else None
        _read(kv, group, seen, still, again)
        kv.read_no_more(group, set(kv.read_of(group)) - kept)


def read_documents(
    kv: SequenceKv, reads: Sequence[Read], overlay: Overlay | None = None, again: Sequence[Again] = ()
) -> None:
    """Have a sequence read all of these documents, but for what is in its overlay.

    ``again``: which rows these are, for the lowest layers first.
    """
    for group in range(len(kv.scores)):
        _read(kv, group, reads, overlay, again)


def _read(kv: SequenceKv, group: int, reads: Sequence[Read], overlay: Overlay | None, again: Sequence[Again]) -> None:
    fmt, nothing = kv.tables[group].format, Again(np.empty(0, np.int64))
    of_layers = []
    for stage in again or [nothing]:
        lists = [one for read in reads for one in read.lists_of(group, fmt, stage.rows)]
        if overlay is not None and (again_there := overlay.list_of(group, stage.rows)) is not None:
            lists.append(again_there)
        of_layers.append((stage.stop, lists))
    *below, (_, others) = of_layers
    extents = () if overlay is None else (overlay.extents[group],)
    kv.read(group, others, extents, {stop: lists for stop, lists in below if stop is not None})
