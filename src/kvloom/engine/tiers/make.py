"""From tiers to what the engine does with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from kvloom.engine.tiers.tiers import Level, Tiers
from kvloom.engine.tiers.write_behind import KeepVictims, Source, WriteBehind
from kvloom.memory.format import PageFormat
from kvloom.memory.ledger import Ledger
from kvloom.memory.tier.base import Tier
from kvloom.policy.tier_cost import TierCost
from kvloom.policy.tier_rate import TierRate


@dataclass(frozen=True, slots=True)
class _Kind:
    """How pages come to a tier, and what is believed of reading one before anything was measured."""

    writer: Callable[[Tier, Source], WriteBehind | KeepVictims]
    assumed: TierCost


_KINDS: Mapping[str, _Kind] = {
    "warm": _Kind(KeepVictims, TierCost(bytes_per_s=4e9, latency_s=2e-5)),
    "disk": _Kind(WriteBehind, TierCost(bytes_per_s=1e9, latency_s=2e-4)),
    "remote": _Kind(WriteBehind, TierCost(bytes_per_s=2e8, latency_s=1e-3)),
}
"""By the tier's name."""


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
        kind = _KINDS[tier.name]
        writer = kind.writer(tier, source)
        ledger.events.listeners.append(writer)
        cost = measured.get(tier.name, kind.assumed)
        levels.append(Level(tier, writer, TierRate(cost), TierRate(cost)))
    return Tiers(levels, ledger.arena.memory, clock, news)
