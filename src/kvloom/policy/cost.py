"""What it takes to compute KV again: the time of prefill as a function of how many tokens there are, and where.

Source: AsymCache (arXiv 2606.02964), whose fitted cost of a block depends on nothing but its position. We differ: in
place of a square of what is before it, every token costs a part that is constant and one that grows with its position,
as the products and the attention of a transformer do. The cost of a block is then linear in its position all the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from kvloom.segment import SpanSet


@dataclass(frozen=True, slots=True)
class PrefillCost:
    """Seconds: of a step whatever it computes, of a token, and of a token for each position before it.

    >>> cost = PrefillCost(start_s=0.0, token_s=1e-3, position_s=1e-6)
    >>> round(cost.step(new=2, positions=2001), 6)  # at positions 1,000 and 1,001
    0.004001
    >>> round(cost.block(position=1000, tokens=2), 6)
    0.004001
    """

    start_s: float
    token_s: float
    position_s: float

    @property
    def doubling_position(self) -> float:
        """Where a token costs twice what one at position 0 costs; infinity where position costs nothing."""
        return self.token_s / self.position_s if self.position_s else math.inf

    def step(self, new: int, positions: int) -> float:
        """Of a step that computes ``new`` tokens whose positions add up to ``positions``."""
        return self.start_s + self.token_s * new + self.position_s * positions

    def block(self, position: int, tokens: int) -> float:
        """What ``tokens`` from ``position`` on add to a step that computes others too."""
        return self.token_s * tokens + self.position_s * (tokens * position + tokens * (tokens - 1) // 2)

    def computing(self, spans: SpanSet) -> float:
        """What the positions of ``spans`` add to a step that computes others too."""
        return sum([self.block(span.start, len(span)) for span in spans.spans])

    def within(self, spans: SpanSet, seconds: float) -> int:
        """How many of the lowest positions of ``spans`` can be computed in so many seconds, beside others.

        >>> PrefillCost(start_s=0.0, token_s=1e-3, position_s=0.0).within(SpanSet.full(100), seconds=0.0105)
        10
        """
        count = 0
        for span in spans.spans:
            here = min(len(span), self._fitting(span.start, seconds))
            count, seconds = count + here, seconds - self.block(span.start, here)
            if here < len(span):
                break
        return count

    def _fitting(self, position: int, seconds: float) -> int:
        """The largest n with ``block(position, n) <= seconds``: the root of a quadratic."""
        if seconds <= 0:
            return 0
        first_s = self.token_s + self.position_s * (position - 0.5)
        return int(2 * seconds / (first_s + math.sqrt(first_s * first_s + 2 * self.position_s * seconds)))


def position_sum(spans: SpanSet) -> int:
    """All positions of ``spans``, added up.

    >>> position_sum(SpanSet.full(4))
    6
    """
    return sum([(span.stop - span.start) * (span.start + span.stop - 1) // 2 for span in spans.spans])


_NOMINAL_FLOPS = 1e11
"""Of a machine of which nothing was measured: it sets the scale, and the proportions are the model's."""


def estimated(parameters: int, query_width: int) -> PrefillCost:
    """From a model's shape alone: multiplications and additions, at a nominal speed.

    ``parameters``: those that every token is multiplied with, embedding and head not included. ``query_width``: query
    heads times their size, added up over the layers of full attention. Attention doubles the cost of a token at the
    position ``parameters / (2 query_width)``; measured values are lower, since attention computes less efficiently.

    >>> cost = estimated(parameters=6_979_321_856, query_width=32 * 128 * 32)  # Llama 3.1 8B
    >>> round(cost.token_s / cost.position_s)
    26624
    """
    return PrefillCost(0.0, 2 * parameters / _NOMINAL_FLOPS, 4 * query_width / _NOMINAL_FLOPS)
