"""Explanation: why each position that must be computed was not found in the cache.

A request that matches whole pages only gets no reason that would reveal what is inside a page.
"""

from __future__ import annotations

from collections.abc import Mapping

from kvloom.engine.kv import SequenceKv
from kvloom.engine.scheduler.coverage import Coverage, computed_for_logits, computed_to_be_seen
from kvloom.engine.tiers import Tiers
from kvloom.memory.format import PAGE_TOKENS
from kvloom.memory.index import Entry, Index
from kvloom.memory.keys import page_key, root_key
from kvloom.memory.tier.base import Place, Tier
from kvloom.memory.tier.writer import Differs, Writer
from kvloom.segment import Miss, Span, SpanSet, Why

_UNKNOWN = (Why.NEW, Why.OTHER_SALT)
"""Reasons that a better one replaces: both, so that what others have stored under their salts changes nothing."""

_REASONS: Mapping[Differs, Why] = {"weights": Why.OTHER_WEIGHTS, "formats": Why.OTHER_FORMATS}


def explain(kv: SequenceKv, index: Index, found: Coverage, tiers: Tiers) -> tuple[Miss, ...]:
    """A reason for every span of ``found.missing``, ordered by position."""
    elsewhere = _of_others(kv, tiers)
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
            why = _why_page(kv, index, found.entries, n)
            reasons.append((part, elsewhere[n] if why in _UNKNOWN and n < len(elsewhere) else why))
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


def _of_others(kv: SequenceKv, tiers: Tiers) -> list[Why]:
    """For so many first pages of a text, why they cannot be used although a tier has them, with this very salt: another
    model's, or other formats. The longest such beginning, whoever wrote it.
    """
    found: list[Why] = []
    for tier, other in tiers.other_writers():
        if other.differs in _REASONS:
            count = _pages_of(kv, tier, other.writer)
            found = max(found, [_REASONS[other.differs]] * count, key=len)
    return found


def _pages_of(kv: SequenceKv, tier: Tier, writer: Writer) -> int:
    """How many first pages of a text a tier has as ``writer`` wrote them."""
    key = root_key(weights=writer.weights, formats=writer.formats, salt=kv.cache.salt)
    for n in range(len(kv.names.keys)):
        key = page_key(key, kv.names.page_tokens(n))
        if not tier.holds(Place(key, 0)):
            return n
    return len(kv.names.keys)


def _joined(reasons: list[tuple[Span, Why]]) -> tuple[Miss, ...]:
    """Merge adjacent spans that have the same reason."""
    misses: list[Miss] = []
    for span, why in reasons:
        if misses and misses[-1].why is why and misses[-1].span.stop == span.start:
            misses[-1] = Miss(Span(misses[-1].span.start, span.stop), why)
        else:
            misses.append(Miss(span, why))
    return tuple(misses)
