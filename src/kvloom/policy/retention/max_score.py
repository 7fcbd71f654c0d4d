"""The lowest probability of reuse first; of equal ones, the deepest.

Blocks are told apart by how often they were used. For each such category the policy learns how many of its idle blocks
are used again, and after how long. With the time to reuse exponential, a block that has been idle for a while will be
used again with a probability that falls with that while and depends on the category alone: in each category the longest
idle goes first, so that only one candidate of each is to be compared. Past a lifespan, after which only a hundredth of
a category's reuses happen, the probability counts as 0.

Source: KVCache in the wild (arXiv 2506.02634), of which a summary was read: probabilities by category with
exponential times to reuse, then the offset, and a lifespan. We differ: its categories are kinds of requests and their
turns, which a policy here is not told; the uses of a block stand for the turns. Reuses that eviction has prevented are
not seen, as anywhere.
"""

from __future__ import annotations

import math
from collections.abc import Set
from dataclasses import dataclass

from kvloom.policy.events import Block, Format
from kvloom.policy.retention.order import Order
from kvloom.segment import PageId, Why

_MOST_USES = 64
"""Blocks used at least that often are one category. The others: 1, 2 to 3, 4 to 7, and so on."""

_MEMORY = 4096
"""Ends of idle times after which earlier ones count half."""

_PRIOR_S = 60.0
"""Time to reuse of a category of which nothing is known, worth one observation."""

_LIFESPAN = math.log(100)
"""In mean times to reuse."""


@dataclass(slots=True)
class Category:
    """How idle times ended, and how long those were that ended in a reuse."""

    reused: float = 0.0
    dropped: float = 0.0
    reuse_s: float = 0.0

    def count(self, reused: bool, idle_s: float) -> None:
        if reused:
            self.reused += 1
            self.reuse_s += idle_s
        else:
            self.dropped += 1
        if self.reused + self.dropped >= _MEMORY:
            self.reused, self.dropped, self.reuse_s = self.reused / 2, self.dropped / 2, self.reuse_s / 2

    def probability(self, idle_s: float) -> float:
        """That a block is used again which was not for so long."""
        ever = (self.reused + 1) / (self.reused + self.dropped + 2)
        means = max(0.0, idle_s) / ((self.reuse_s + _PRIOR_S) / (self.reused + 1))
        if means > _LIFESPAN:
            return 0.0
        left = ever * math.exp(-means)
        return left / (1 - ever + left)


class MaxScore:
    """One order per category of uses."""

    def __init__(self) -> None:
        numbers = _MOST_USES.bit_length()
        self._orders = [Order() for _ in range(numbers)]
        self._categories = [Category() for _ in range(numbers)]
        self._uses: dict[PageId, int] = {}

    def stored(self, block: Block, now: float) -> None:
        self._uses[block.page] = 1

    def reused(self, block: Block, now: float) -> None:
        uses = self._uses[block.page]
        self._end(block.page, now, reused=True)
        self._uses[block.page] = min(uses + 1, _MOST_USES)

    def idle(self, block: Block, now: float) -> None:
        self._orders[self._uses[block.page].bit_length() - 1].put(block, now, -block.position)

    def gone(self, block: Block, why: Why, now: float) -> None:
        self._end(block.page, now, reused=False if why is Why.EVICTED else None)
        del self._uses[block.page]

    def victim(self, format: Format | None, now: float) -> PageId | None:
        best: tuple[float, ...] | None = None
        for order, category in zip(self._orders, self._categories, strict=True):
            item = order.lowest(format)
            if item is not None:
                priority, idle_s, depth, _, page = item
                candidate = (priority, category.probability(now - idle_s), depth, page)
                best = candidate if best is None else min(best, candidate)
        return None if best is None else best[-1]  # type: ignore[return-value]

    def fresh(self) -> MaxScore:
        return MaxScore()

    def book(self) -> Set[PageId]:
        return {page for order in self._orders for page in order.pages()}

    def _end(self, page: PageId, now: float, reused: bool | None) -> None:
        """It is idle no longer, if it was. ``reused``: None where that says nothing of its kind."""
        number = self._uses[page].bit_length() - 1
        rank = self._orders[number].remove(page)
        if rank is not None and reused is not None:
            self._categories[number].count(reused, now - rank[0])
