"""Explanation: why each position that must be computed is not found.

A request that matches in pages hears no reason that would tell of what is inside a page.
"""

from __future__ import annotations

from kvloom.engine.request import Sequence
from kvloom.engine.scheduler.coverage import Coverage, always_computed
from kvloom.memory.format import PAGE_TOKENS
from kvloom.memory.index import Entry, Index
from kvloom.segment import Miss, Span, Why


def explain(sequence: Sequence, index: Index, found: Coverage) -> tuple[Miss, ...]:
    """A reason for every span of ``found.gaps``, in order of positions."""
    reasons: list[tuple[Span, Why]] = []
    anyway = always_computed(sequence)
    for span in found.gaps & found.everywhere:
        alone = (span,) == anyway.spans and not any(anyway - have for have in found.stored)
        reasons.append((span, Why.LAST_TOKEN if alone else Why.WINDOW))
    for span in found.gaps - found.everywhere:
        for n in range(span.start // PAGE_TOKENS, -(-span.stop // PAGE_TOKENS)):
            part = Span(max(span.start, n * PAGE_TOKENS), min(span.stop, (n + 1) * PAGE_TOKENS))
            reasons.append((part, _why_page(sequence, index, found.entries, n)))
    return _joined(sorted(reasons))


def _why_page(sequence: Sequence, index: Index, entries: list[Entry | None], n: int) -> Why:
    parent, tokens = sequence.parent_key(n), sequence.page_tokens(n)
    inside = sequence.request.cache.match == "tokens"
    if n < len(entries):
        if entries[n] is not None:
            return Why.EVICTED  # stored for some layer groups only: the others' pages were dropped
        return index.explain(sequence.keys[n], parent, tokens, sequence.contents[n], inside=inside)
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
