"""Greedy dual, by size, frequency and the cost of prefill: a use is worth the seconds per byte that it spares.

Source: RAGCache (arXiv 2404.12457), PGDSF. We differ: the cost of a block follows from its position, where the paper
averages a measured cost over the misses that recomputed it; any block may go, where in the paper it must be a leaf of
the tree of prefixes; there is one clock, since there is one tier.
"""

from __future__ import annotations

from functools import partial

from kvloom.policy.cost import PrefillCost
from kvloom.policy.retention.aging import Aging
from kvloom.policy.retention.worth import seconds_per_byte


def greedy_dual(cost: PrefillCost) -> Aging:
    return Aging(partial(seconds_per_byte, cost))
