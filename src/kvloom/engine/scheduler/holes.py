"""Holes: which hits after a hole are worth going on with.

A request alternates between what is cached and what it computes. To cross from a hole to a later hit costs little in
this engine, where one chunk spans many holes, so nearly every hit is worth it. Where pages were evicted here and there,
a request could have hundreds of holes though, each a part of every plan; and few tokens between two holes are computed
as quickly as they are skipped.

Source: "When Fancy Eviction Fails" (arXiv 2609.28870): nine holes a request made the first token of a real engine four
times as late, until they were merged.
"""

from __future__ import annotations

import heapq

from kvloom.policy.cost import PrefillCost
from kvloom.segment import Span, SpanSet

HOLE_TOKENS = 4
"""A hole is taken to cost as much as so many tokens at the beginning of a context: assumed, not measured."""

MOST_HOLES = 32
"""Of a request."""


def not_worth_it(
    cached: SpanSet, cost: PrefillCost, most: int = MOST_HOLES, hole_tokens: float = HOLE_TOKENS
) -> SpanSet:
    """The spans of ``cached`` that are to be computed all the same, so that the rest takes the least time.

    What is cached from position 0 on has no hole before it; any other span that is kept has exactly one, which ends
    where it begins. So every span can be judged alone: it stays if computing it would cost more than a hole does. Of
    those, the ``most`` expensive ones; where none is worth it, the prefix alone is reused.
    """
    hole_s = hole_tokens * cost.token_s
    after = [span for span in cached if span.start > 0]
    worth = [(cost.block(span.start, len(span)), span) for span in after]
    kept = heapq.nlargest(most, [(saved_s, span) for saved_s, span in worth if saved_s > hole_s], key=_saved)
    return SpanSet(tuple(after)) - SpanSet.of([span for _, span in kept])


def _saved(item: tuple[float, Span]) -> float:
    return item[0]
