"""Look a sequence up: what can be reused, what must be computed and why, and whether somebody is computing it."""

from __future__ import annotations

from dataclasses import dataclass

from kvloom.engine.request import Sequence
from kvloom.engine.scheduler.coverage import Hit, TailCopy, cover
from kvloom.engine.scheduler.explanation import explain
from kvloom.memory.format import PAGE_TOKENS
from kvloom.memory.index import Index
from kvloom.segment import Miss, Span, SpanSet, Why


@dataclass(frozen=True, slots=True)
class Match:
    """The outcome. ``waits_for``: another sequence is computing the first page that is missing."""

    gaps: SpanSet
    hits: tuple[Hit, ...] = ()
    copies: tuple[TailCopy, ...] = ()
    misses: tuple[Miss, ...] = ()
    waits_for: str | None = None


def match(sequence: Sequence, index: Index) -> Match:
    """Match all tokens of a waiting sequence."""
    sequence.extend_identity()
    if sequence.wants_prompt_scores or not sequence.request.cache.read:
        everything = Span(0, len(sequence.tokens))
        return Match(SpanSet((everything,)), misses=(Miss(everything, Why.NOT_ASKED),))
    found = cover(sequence, index)
    return Match(
        gaps=found.gaps,
        hits=found.hits,
        copies=found.copies,
        misses=explain(sequence, index, found),
        waits_for=_coming(sequence, index, found.gaps),
    )


def _coming(sequence: Sequence, index: Index, gaps: SpanSet) -> str | None:
    """Who is computing the page that holds the first gap, if somebody else is."""
    n = gaps.spans[0].start // PAGE_TOKENS
    owner = index.coming_from(sequence.keys[n]) if n < len(sequence.keys) else None
    return None if owner == sequence.owner else owner
