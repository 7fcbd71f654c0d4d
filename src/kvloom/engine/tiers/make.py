"""From tiers to what the engine does with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from kvloom.engine.tiers.tiers import Level, Tiers
from kvloom.engine.tiers.write_behind import KeepVictims, Source, WriteBehind
from kvloom.memory.format import PageFormat
from kvloom.memory.ledger import Ledger
from kvloom.memory.tier.base import Tier
from kvloom.policy.tier_cost import TierCost
from kvloom.policy.tier_rate import TierRate

ASSUMED = {
    "warm": TierCost(bytes_per_s=4e9, latency_s=2e-5),
    "disk": TierCost(bytes_per_s=1e9, latency_s=2e-4),
    "remote": TierCost(bytes_per_s=2e8, latency_s=1e-3),
}
"""What is believed of reading a page from a tier before anything was measured."""


def make_tiers(
    tiers: Sequence[Tier],
    ledger: Ledger,
    formats: Sequence[PageFormat],
    clock: Callable[[], float],
    news: Callable[[], None],
    measured: Mapping[str, TierCost],
) -> Tiers:
    """``formats``: of whole pages, by layer group. ``measured``: what reading a page costs, where that is known."""
    source = Source(ledger.arena.memory, {fmt: group for group, fmt in enumerate(formats)})
    levels = []
    for tier in tiers:
        writer = KeepVictims(tier, source) if tier.name == "warm" else WriteBehind(tier, source)
        ledger.events.listeners.append(writer)
        levels.append(Level(tier, writer, TierRate(measured.get(tier.name, ASSUMED[tier.name]))))
    return Tiers(levels, ledger.arena.memory, clock, news)
