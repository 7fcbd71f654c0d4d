"""What foresight would save, for comparison with retention policies: never one of them.

``Belady`` is a policy that knows when every block will be used next, and evicts the one that saves the fewest seconds
of recomputing per second of keeping it. Where all blocks cost the same, it evicts the one whose next use is furthest,
which is optimal; otherwise it is not always.

``least_seconds`` is a bound that no policy can beat: how much time must be spent on recomputing at least.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence, Set

import numpy as np

from bench.retention_gaps import Gaps
from kvloom.policy.cost import PrefillCost
from kvloom.policy.events import Block, Format
from kvloom.policy.retention.classes import Classes
from kvloom.policy.retention.worth import recompute_seconds
from kvloom.segment import PageId, Why
from kvloom.simulate.traces.trace import Trace

_STEP = 1.02
"""Costs within this factor are ordered by next use alone."""

_ROUNDS = 400


def uses_of(trace: Trace) -> dict[int, list[float]]:
    """When every block is used."""
    uses: dict[int, list[float]] = defaultdict(list)
    for request in trace.requests:
        for block in request.blocks:
            uses[block].append(request.arrival_s)
    return uses


class Belady:
    """``uses``: the times of all uses, by page."""

    def __init__(self, cost: PrefillCost, uses: Mapping[int, Sequence[float]]) -> None:
        self._cost, self._uses = cost, uses
        self._classes = Classes()

    def stored(self, block: Block, now: float) -> None:
        pass

    def reused(self, block: Block, now: float) -> None:
        self._classes.remove(block.page)

    def idle(self, block: Block, now: float) -> None:
        times = self._uses.get(block.page, ())
        index = bisect_right(times, now)
        next_s = times[index] if index < len(times) else math.inf
        seconds = recompute_seconds(self._cost, block)
        self._classes.put(round(math.log(seconds) / math.log(_STEP)), block, -next_s, seconds)

    def gone(self, block: Block, why: Why, now: float) -> None:
        self._classes.remove(block.page)

    def victim(self, format: Format | None, now: float) -> PageId | None:
        best: tuple[float, ...] | None = None
        for _, (priority, next_s, seconds, _, page) in self._classes.lowest(format):
            candidate = (priority, seconds / max(-next_s - now, 1e-9), seconds, page)
            best = candidate if best is None else min(best, candidate)
        return None if best is None else PageId(int(best[-1]))

    def fresh(self) -> Belady:
        return Belady(self._cost, self._uses)

    def book(self) -> Set[PageId]:
        return self._classes.pages()


def least_seconds(trace: Trace, gaps: Gaps, capacity: int, cost: PrefillCost) -> float:
    """No policy recomputes for less time with room for ``capacity`` blocks.

    A policy chooses gaps between two uses through which blocks are kept; at no request more than it leaves room for.
    With a price for room at every request, the best gaps are those whose saving exceeds their price, and what they save
    beyond it, plus the price of all room, is a bound on what can be saved, whatever the prices. They are improved along
    a subgradient.
    """
    start_G, stop_G = gaps.start_G, gaps.stop_G
    if not len(start_G):
        return 0.0
    costs = [cost.block(index * trace.block_tokens, trace.block_tokens) for index in range(trace.longest)]
    saving_G = np.array(costs)[gaps.index_G]
    room_R = np.array([capacity - len(request.blocks) for request in trace.requests], dtype=np.float64)

    def bound(price_R: np.ndarray) -> tuple[float, np.ndarray]:
        """What can be saved at most, and by how much room exceeds what is kept."""
        before_R = np.concatenate([[0.0], np.cumsum(price_R)])
        gain_G = saving_G - (before_R[stop_G] - before_R[start_G + 1])
        kept_G = gain_G > 0
        change_R = np.zeros(len(room_R) + 1)
        np.add.at(change_R, start_G[kept_G] + 1, 1.0)
        np.add.at(change_R, stop_G[kept_G], -1.0)
        return float(gain_G[kept_G].sum() + price_R @ room_R), room_R - np.cumsum(change_R)[:-1]

    fair = saving_G.mean() / max(1.0, (stop_G - start_G).mean())
    flat = [np.full(len(room_R), fair * factor) for factor in (0.0, *np.geomspace(1 / 64, 64, 25))]
    price_R = min(flat, key=lambda prices: bound(prices)[0])
    best, slack_R = bound(price_R)
    for number in range(_ROUNDS):
        step = 4 * fair / (1 + number / 8) / max(1.0, float(np.abs(slack_R).max()))
        price_R = np.maximum(0.0, price_R - step * slack_R)
        saved, slack_R = bound(price_R)
        best = min(best, saved)
    return max(0.0, float(saving_G.sum()) - best)
