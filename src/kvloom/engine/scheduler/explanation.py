"""Explanation: why each position that must be computed was not found in the cache.

A request that matches whole pages only gets no reason that would reveal what is inside a page.
"""

from __future__ import annotations

from kvloom.engine.kv import SequenceKv
from kvloom.engine.scheduler.coverage import Coverage, computed_for_logits, computed_to_be_seen
from kvloom.memory.format import PAGE_TOKENS
from kvloom.memory.index import Entry, Index
from kvloom.segment import Miss, Span, SpanSet, Why


def explain(kv: SequenceKv, index: Index, found: Coverage) -> tuple[Miss, ...]:
    """A reason for every span of ``found.missing``, ordered by position."""
    named = SpanSet.full(kv.names.stop)
    after = Why.FUSED if kv.fuses else Why.COMPRESSED
    reasons = [(span, after) for span in found.missing - named]
    stored, watched, anyway = found.missing & found.everywhere & named, computed_to_be_seen(kv), computed_for_logits(kv)
    reasons += [(span, Why.WATCHED) for span in stored & watched]
    reasons += [(span, Why.SCATTERED) for span in stored & found.scattered]
    for span in stored - watched - found.scattered:
        alone = (span,) == anyway.spans and not any(anyway - have for have in found.stored)
        reasons.append((span, Why.LAST_TOKEN if alone else Why.WINDOW))
    for span in (found.missing & named) - found.everywhere:
        for n in range(span.start // PAGE_TOKENS, -(-span.stop // PAGE_TOKENS)):
            part = Span(max(span.start, n * PAGE_TOKENS), min(span.stop, (n + 1) * PAGE_TOKENS))
            reasons.append((part, _why_page(kv, index, found.entries, n)))
    return _joined(sorted(reasons))


def _why_page(kv: SequenceKv, index: Index, entries: list[Entry | None], n: int) -> Why:
    parent, tokens = kv.names.parent_key(n), kv.names.page_tokens(n)
    inside = kv.cache.match == "tokens"
    if n < len(entries):
        if entries[n] is not None:
            return Why.EVICTED  # stored for some layer groups only: the pages of the others were evicted
        return index.explain(kv.names.keys[n], parent, tokens, kv.names.contents[n], inside=inside)
    if inside and index.diverges(parent, tokens):
        return Why.DIFFERS
    return Why.TOO_SHORT if n and entries[n - 1] is not None else Why.NEW


def _joined(reasons: list[tuple[Span, Why]]) -> tuple[Miss, ...]:
    """Merge adjacent spans that have the same reason."""
    misses: list[Miss] = []
    for span, why in reasons:
        if misses and misses[-1].why is why and misses[-1].span.stop == span.start:
            misses[-1] = Miss(Span(misses[-1].span.start, span.stop), why)
        else:
            misses.append(Miss(span, why))
    return tuple(misses)
