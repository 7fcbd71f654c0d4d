"""Look a sequence up in the index: what can be reused, what must be computed, and why.

Look-up does not stop at the first miss: pages after a hole are hits too. A position counts as covered only if every
layer group has what later rows will read; where a window layer gave its pages back, positions are computed again from
far enough back that every row finds its window. A request that matches in pages sees nothing of what is inside a
page: no tails, and no reason that would tell of one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from kvloom.engine.request import Sequence
from kvloom.memory.format import PAGE_TOKENS
from kvloom.memory.index import Entry, Index
from kvloom.segment import Miss, PageId, Span, SpanSet, Why


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
class Match:
    """The outcome. ``waits_for``: another sequence is computing the first page that is missing."""

    missing: SpanSet
    hits: tuple[Hit, ...] = ()
    copies: tuple[TailCopy, ...] = ()
    misses: tuple[Miss, ...] = ()
    waits_for: str | None = None


@dataclass
class _Stored:
    """What the index has for a sequence: per layer group the covered positions, and the pages behind them."""

    covered: list[SpanSet]
    hits: list[Hit] = field(default_factory=list)
    copies: list[TailCopy] = field(default_factory=list)


def match(sequence: Sequence, index: Index) -> Match:
    """Match all tokens of a waiting sequence."""
    length = len(sequence.tokens)
    last = _last(sequence)
    sequence.kv.names.extend()
    if sequence.wants_prompt_scores or not sequence.kv.cache.read:
        return Match(SpanSet.full(length), misses=(Miss(Span(0, length), Why.NOT_ASKED),))
    entries = [index.find(key, sequence.kv.names.page_tokens(n)) for n, key in enumerate(sequence.kv.names.keys)]
    stored = _collect(sequence, index, entries)
    windows = [table.window for table in sequence.kv.tables]
    full = [covered for covered, window in zip(stored.covered, windows, strict=True) if window is None]
    everywhere = _intersection(full) if full else SpanSet.full(length)
    missing = _close((SpanSet.full(length) - everywhere) | last, stored.covered, windows)
    return Match(
        missing=missing,
        hits=tuple(hit for hit in stored.hits if _useful(hit, missing, windows[hit.group])),
        copies=tuple(copy for copy in stored.copies if _copy_helps(copy, missing)),
        misses=_explain(sequence, index, entries, stored, everywhere, missing),
        waits_for=_coming(sequence, index, missing),
    )


def _last(sequence: Sequence) -> SpanSet:
    """What is computed in any case, for its logits: a token, or what there is of its page."""
    length = len(sequence.tokens)
    start = length - 1 if sequence.kv.cache.match == "tokens" else (length - 1) // PAGE_TOKENS * PAGE_TOKENS
    return SpanSet((Span(start, length),))


def _collect(sequence: Sequence, index: Index, entries: list[Entry | None]) -> _Stored:
    length = len(sequence.tokens)
    stored = _Stored([SpanSet() for _ in sequence.kv.tables])
    spans: list[list[Span]] = [[] for _ in sequence.kv.tables]
    for n, entry in enumerate(entries):
        for group, page in enumerate(entry.pages if entry else ()):
            if page is not None:
                stored.hits.append(Hit(group, n, page))
                spans[group].append(Span(n * PAGE_TOKENS, (n + 1) * PAGE_TOKENS))
    missing = [n for n in range(-(-length // PAGE_TOKENS)) if n >= len(entries) or entries[n] is None]
    inside = missing and sequence.kv.cache.match == "tokens"
    for n in sorted({missing[0], missing[-1]} if inside else set()):
        near = index.nearest(sequence.kv.names.parent_key(n), sequence.kv.names.page_tokens(n))
        if near is not None:
            entry, shared = near
            pages = tuple((group, page) for group, page in enumerate(entry.pages) if page is not None)
            stored.copies.append(TailCopy(n, shared, pages))
            for group, _ in pages:
                spans[group].append(Span(n * PAGE_TOKENS, n * PAGE_TOKENS + shared))
    stored.covered = [SpanSet.of(group) for group in spans]
    return stored


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
            reads = [Span(max(0, gap.start - window + 1), gap.start) for gap in missing if gap.start > 0]
            wanted += SpanSet.of(reads) - have - missing
        if not wanted:
            return missing
        missing = missing | SpanSet.of(wanted)


def _useful(hit: Hit, missing: SpanSet, window: int | None) -> bool:
    """Full-attention pages always; a window layer's page only if some row will read it."""
    if window is None:
        return True
    start, stop = hit.index * PAGE_TOKENS, (hit.index + 1) * PAGE_TOKENS
    return any(start < gap.stop and stop > gap.start - window + 1 for gap in missing)


def _copy_helps(copy: TailCopy, missing: SpanSet) -> bool:
    """A copy is worth its page unless all of its entries are computed again anyway."""
    start = copy.index * PAGE_TOKENS
    return bool(SpanSet((Span(start, start + copy.tokens),)) - missing)


def _coming(sequence: Sequence, index: Index, missing: SpanSet) -> str | None:
    """Who is computing the page that holds the first missing position, if somebody else is."""
    n = missing.spans[0].start // PAGE_TOKENS
    owner = index.coming_from(sequence.kv.names.keys[n]) if n < len(sequence.kv.names.keys) else None
    return None if owner == sequence.owner else owner


def _explain(
    sequence: Sequence,
    index: Index,
    entries: list[Entry | None],
    stored: _Stored,
    everywhere: SpanSet,
    missing: SpanSet,
) -> tuple[Miss, ...]:
    reasons: list[tuple[Span, Why]] = []
    last = _last(sequence)
    for span in missing & everywhere:
        alone = (span,) == last.spans and not any(last - have for have in stored.covered)
        reasons.append((span, Why.LAST_TOKEN if alone else Why.WINDOW))
    for span in missing - everywhere:
        for n in range(span.start // PAGE_TOKENS, -(-span.stop // PAGE_TOKENS)):
            part = Span(max(span.start, n * PAGE_TOKENS), min(span.stop, (n + 1) * PAGE_TOKENS))
            reasons.append((part, _why_page(sequence, index, entries, n)))
    return _joined(sorted(reasons))


def _why_page(sequence: Sequence, index: Index, entries: list[Entry | None], n: int) -> Why:
    parent, tokens = sequence.kv.names.parent_key(n), sequence.kv.names.page_tokens(n)
    inside = sequence.kv.cache.match == "tokens"
    if n < len(entries):
        if entries[n] is not None:
            return Why.EVICTED  # stored for some layer groups only: the others' pages were dropped
        return index.explain(sequence.kv.names.keys[n], parent, tokens, sequence.kv.names.contents[n], inside=inside)
    if inside and index.diverges(parent, tokens):
        return Why.DIFFERS
    return Why.TOO_SHORT if n and entries[n - 1] is not None else Why.NEW


def _joined(reasons: list[tuple[Span, Why]]) -> tuple[Miss, ...]:
    """Neighbouring spans with the same reason become one."""
    misses: list[Miss] = []
    for span, why in reasons:
        if misses and misses[-1].why is why and misses[-1].span.stop == span.start:
            misses[-1] = Miss(Span(misses[-1].span.start, span.stop), why)
        else:
            misses.append(Miss(span, why))
    return tuple(misses)
