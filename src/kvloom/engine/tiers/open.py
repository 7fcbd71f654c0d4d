"""From settings to tiers."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from kvloom.config import TierConfig, parse_bytes
from kvloom.errors import ConfigError
from kvloom.memory.format import PageFormat
from kvloom.memory.tier.base import Tier
from kvloom.memory.tier.disk import DiskTier
from kvloom.memory.tier.faulty import Damageable, FaultyTier
from kvloom.memory.tier.remote import open_remote
from kvloom.memory.tier.warm import WarmTier
from kvloom.memory.tier.writer import Writer


def open_tiers(config: TierConfig, formats: Sequence[PageFormat], writer: Writer | None = None) -> list[Tier]:
    """For pages of these formats, one for each layer group; the fastest first. ``writer``: who writes them; None: what
    outlives the process does not say. Raises ConfigError.
    """
    tiers: list[Damageable] = []
    with ExitStack() as undo:
        if config.warm_bytes is not None:
            tiers.append(WarmTier(parse_bytes(config.warm_bytes), formats))
        if config.warm_int8_bytes is not None:
            tiers.append(_lossy_warm(parse_bytes(config.warm_int8_bytes), formats))
        if config.cache_dir is not None:
            disk = DiskTier(Path(config.cache_dir).expanduser(), parse_bytes(config.disk_bytes), writer=writer)
            undo.callback(disk.close)
            tiers.append(disk)
        if (remote := config.remote) is not None:
            tiers.append(open_remote(remote))
        undo.pop_all()
    faults = {each.tier: each for each in config.faults}
    return [FaultyTier(tier, faults[tier.name]) if tier.name in faults else tier for tier in tiers]


def _lossy_warm(budget_bytes: int, formats: Sequence[PageFormat]) -> WarmTier:
    if all(fmt.codec == "int8" for fmt in formats):
        raise ConfigError(
            "warm_int8_bytes is for pages in int8, which all of them are in already", hint="use warm_bytes"
        )
    return WarmTier(budget_bytes, [fmt.recoded("int8") for fmt in formats], "warm_int8")
