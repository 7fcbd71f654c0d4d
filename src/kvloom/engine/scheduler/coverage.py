"""Coverage: which positions of a sequence the index has KV for, and which must be computed.

Look-up does not stop at the first miss: later pages are hits too. A position counts as covered only if every
layer group has what later rows will read; where a window layer gave its pages back, positions are computed again from
far enough back that every row finds its window. A request that matches in pages sees nothing of what is inside a
page: no tails.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass

from kvloom.engine.kv import SequenceKv
from kvloom.engine.scheduler.holes import not_worth_it
from kvloom.engine.tiers import Wanted
from kvloom.memory.format import PAGE_TOKENS
from kvloom.memory.index import Entry, Index
from kvloom.memory.table import page_span
from kvloom.policy.cost import PrefillCost
from kvloom.segment import PageId, Span, SpanSet


@dataclass(frozen=True, slots=True)
class Hit:
    """Page ``index`` of layer group ``group`` can be shared as it is."""

    group: int
    index: int
    page: PageId


@dataclass(frozen=True, slots=True)
class TailCopy:
    """The first ``tokens`` entries of a stored page are ours, the rest is not: copy the page and go on in the copy."""

    index: int
    tokens: int
    pages: tuple[tuple[int, PageId], ...]


@dataclass(frozen=True, slots=True)
class Coverage:
    """What the index has for a sequence.

    entries: by page, as far as pages are full. stored: per layer group the positions that are stored. everywhere: those
    that every layer without a window has. missing: what must be computed. scattered: what is, though everything of it
    is stored, since it lies between holes. hits, copies, loads: the pages that help.
    """

    entries: list[Entry | None]
    stored: list[SpanSet]
    everywhere: SpanSet
    missing: SpanSet
    scattered: SpanSet
    hits: tuple[Hit, ...]
    copies: tuple[TailCopy, ...]
    loads: tuple[Wanted, ...] = ()


def cover(
    kv: SequenceKv, index: Index, cost: PrefillCost, loads: Sequence[Wanted] = (), *, tails: bool = True
) -> Coverage:
    """Look all tokens of a waiting sequence up. ``cost``: its proportions say which hits after holes are worth it.
    ``loads``: pages to take for stored. ``tails``: whether parts of pages are of use.
    """
    length = len(kv.tokens)
    entries = [index.find(key, kv.names.page_tokens(n)) for n, key in enumerate(kv.names.keys)]
    hits = _hits(entries)
    copies = _tails(kv, index, entries, {load.index for load in loads}) if tails else []
    stored = [SpanSet.of(_spans(group, hits, copies, loads)) for group in range(len(kv.tables))]
    windows = [table.window for table in kv.tables]
    full = [have for have, window in zip(stored, windows, strict=True) if window is None]
    everywhere = _intersection(full) if full else SpanSet.full(length)
    anyway = computed_for_logits(kv) | computed_to_be_seen(kv)
    scattered = not_worth_it(everywhere - anyway, cost)
    missing = _close((SpanSet.full(length) - everywhere) | anyway | scattered, stored, windows)
    return Coverage(
        entries=entries,
        stored=stored,
        everywhere=everywhere,
        missing=missing,
        scattered=scattered,
        hits=tuple(hit for hit in hits if _useful(hit, missing, windows[hit.group])),
        copies=tuple(copy for copy in copies if _copy_helps(copy, missing)),
        loads=tuple(load for load in loads if _useful(load, missing, windows[load.group])),
    )


def computed_for_logits(kv: SequenceKv) -> SpanSet:
    """What is computed in any case: the last token, or what there is of its page."""
    length = len(kv.tokens)
    start = length - 1 if kv.cache.match == "tokens" else (length - 1) // PAGE_TOKENS * PAGE_TOKENS
    return SpanSet((Span(start, length),))


def computed_to_be_seen(kv: SequenceKv) -> SpanSet:
    """What is computed in any case for the method that compresses the context."""
    return SpanSet() if kv.watch is None else kv.watch.rows & SpanSet.full(len(kv.tokens))


def _hits(entries: list[Entry | None]) -> list[Hit]:
    return [
        Hit(group, n, page)
        for n, entry in enumerate(entries)
        for group, page in enumerate(entry.pages if entry else ())
        if page is not None
    ]


def _tails(kv: SequenceKv, index: Index, entries: list[Entry | None], loaded: Set[int]) -> list[TailCopy]:
    """Stored pages that begin like the first or the last page that is missing, and not loaded."""
    pages = -(-kv.names.stop // PAGE_TOKENS)
    lacking = [n for n in range(pages) if n not in loaded and (n >= len(entries) or entries[n] is None)]
    if not lacking or kv.cache.match != "tokens":
        return []
    copies = []
    for n in sorted({lacking[0], lacking[-1]}):
        near = index.nearest(kv.names.parent_key(n), kv.names.page_tokens(n))
        if near is not None:
            entry, shared = near
            stored = tuple((group, page) for group, page in enumerate(entry.pages) if page is not None)
            copies.append(TailCopy(n, shared, stored))
    return copies


def _spans(group: int, hits: list[Hit], copies: list[TailCopy], loads: Sequence[Wanted]) -> list[Span]:
    """What a layer group has: its whole pages, and the beginnings of others."""
    pages: list[Hit | Wanted] = [*hits, *loads]
    whole = [page_span(page.index) for page in pages if page.group == group]
    return whole + [
        Span(copy.index * PAGE_TOKENS, copy.index * PAGE_TOKENS + copy.tokens)
        for copy in copies
        if any(g == group for g, _ in copy.pages)
    ]


def _intersection(sets: list[SpanSet]) -> SpanSet:
    common = sets[0]
    for other in sets[1:]:
        common = common & other
    return common


def _close(missing: SpanSet, covered: list[SpanSet], windows: list[int | None]) -> SpanSet:
    """Add to ``missing`` whatever their rows would look for in vain in a window layer, until nothing is missing."""
    while True:
        wanted: list[Span] = []
        for have, window in zip(covered, windows, strict=True):
            if window is None or window == 1:
                continue
            reads = [Span(max(0, each.start - window + 1), each.start) for each in missing if each.start > 0]
            wanted += SpanSet.of(reads) - have - missing
        if not wanted:
            return missing
        missing = missing | SpanSet.of(wanted)


def _useful(page: Hit | Wanted, missing: SpanSet, window: int | None) -> bool:
    """Full-attention pages always; a window layer's page only if some row will read it."""
    if window is None:
        return True
    start, stop = page.index * PAGE_TOKENS, (page.index + 1) * PAGE_TOKENS
    return any(start < each.stop and stop > each.start - window + 1 for each in missing)


def _copy_helps(copy: TailCopy, missing: SpanSet) -> bool:
    """A copy is worth its page unless all of its entries are computed again anyway."""
    start = copy.index * PAGE_TOKENS
    return bool(SpanSet((Span(start, start + copy.tokens),)) - missing)
