"""From tiers to what the engine does with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from kvloom.engine.tiers.background import Background, Writer
from kvloom.engine.tiers.tiers import Level, Tiers
from kvloom.engine.tiers.write_behind import KeepVictims, LossySource, Source, WriteBehind
from kvloom.memory.format import PageFormat
from kvloom.memory.ledger import Ledger
from kvloom.memory.tier.base import Tier
from kvloom.policy.events import Format
from kvloom.policy.tier_cost import TierCost
from kvloom.policy.tier_rate import TierRate


@dataclass(frozen=True, slots=True)
class _Kind:
    """How pages come to a tier, and what is believed of reading one before anything was measured. ``codec``: what they
    are kept in, None: as they are. What is recoded comes through a thread, as that takes time.
    """

    writer: Callable[[Tier, Source, Writer], WriteBehind | KeepVictims]
    assumed: TierCost
    codec: str | None = None


_KINDS: Mapping[str, _Kind] = {
    "warm": _Kind(KeepVictims, TierCost(bytes_per_s=4e9, latency_s=2e-5)),
    "warm_int8": _Kind(WriteBehind, TierCost(bytes_per_s=4e9, latency_s=2e-5), codec="int8"),
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
    background: Background,
) -> Tiers:
    """``formats``: of whole pages, by layer group. ``measured``: what reading a page costs, where that is known.
    ``background``: who writes and reads meanwhile.
    """
    memory = ledger.arena.memory
    groups: dict[Format, int] = {fmt: group for group, fmt in enumerate(formats)}
    levels = []
    for tier in tiers:
        kind = _KINDS[tier.name]
        source = Source(memory, groups) if kind.codec is None else LossySource(memory, groups, kind.codec)
        writer = kind.writer(tier, source, background.writer(tier))
        ledger.events.listeners.append(writer)
        cost = measured.get(tier.name, kind.assumed)
        reader, offloads = background.reader(tier), background.offloads(tier)
        levels.append(Level(tier, writer, reader, offloads, TierRate(cost), TierRate(cost), kind.codec))
    return Tiers(levels, memory, clock, news, background)
