"""What a block is worth: the time that recomputing it would add to a prefill, per byte that dropping it frees."""

from __future__ import annotations

from kvloom.policy.cost import PrefillCost
from kvloom.policy.events import Block

_LEAST_S = 1e-12
"""Costs are divided by, and their logarithms taken."""


def recompute_seconds(cost: PrefillCost, block: Block) -> float:
    """Always positive. Slabs, of which only the format is known, all cost as much as a first token."""
    return max(_LEAST_S, cost.block(block.position, len(block.tokens) or 1))


def seconds_per_byte(cost: PrefillCost, block: Block) -> float:
    """Blocks of one format, but for extents, are of one size: for them it is the cost that counts."""
    return recompute_seconds(cost, block) / block.size_bytes
