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


def position_sum(spans: SpanSet) -> int:
    """All positions of ``spans``, added up.

    >>> position_sum(SpanSet.full(4))
    6
    """
    return sum([(span.stop - span.start) * (span.start + span.stop - 1) // 2 for span in spans.spans])
