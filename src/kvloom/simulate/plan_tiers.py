"""How large tiers are worth having for a trace: a warm one is tried beside the best of what was tried without, then a
disk beside that. A curve ends at what the trace stores, since more holds nothing more; its knee is recommended.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from kvloom.config import CacheConfig
from kvloom.engine.layout import KvLayout
from kvloom.simulate.machines import Machine
from kvloom.simulate.plan import AS_GOOD, Tried, tried
from kvloom.simulate.traces.trace import Trace

SHARES = (0.125, 0.25, 0.5, 1.25)
"""Of what a trace stores, where no sizes are asked for; the last has room for the records of pages too."""

_LEAST_BLOCKS = 64
"""A smaller tier would be of no use to anybody."""


@dataclass(frozen=True, slots=True)
class TierSizes:
    """To try, in bytes, ascending; none: such a tier is not tried."""

    warm: Sequence[int]
    disk: Sequence[int]

    def __len__(self) -> int:
        return len(self.warm) + len(self.disk)


@dataclass(frozen=True, slots=True)
class TierPlan:
    """``warm``, ``disk``: curves, from none on; ``best``: with the knees of both."""

    warm: tuple[Tried, ...]
    disk: tuple[Tried, ...]
    best: Tried


def planned_tiers(
    trace: Trace,
    machine: Machine,
    without: Tried,
    sizes: TierSizes,
    speed: float = 1.0,
    on_end: Callable[[], None] = lambda: None,
) -> TierPlan:
    """``without``: the best of what has no tiers. ``on_end``: called for every request of each. Raises ConfigError."""

    settings = [replace(without.setting, warm_bytes=size) for size in sizes.warm]
    warm = (without, *tried(trace, machine, settings, speed, on_end))
    beside = knee(warm)
    settings = [replace(beside.setting, disk_bytes=size) for size in sizes.disk]
    disk = (beside, *tried(trace, machine, settings, speed, on_end))
    return TierPlan(warm, disk, knee(disk))


def knee(curve: Sequence[Tried]) -> Tried:
    """The first that is about as good as the best: more is not worth its memory. By mean time to the first token."""
    enough_s = AS_GOOD * min(each.summary.ttft.mean for each in curve)
    return next(each for each in curve if each.summary.ttft.mean <= enough_s)


def sizes_for(trace: Trace, machine: Machine, most: int) -> list[int]:
    """``SHARES`` of what the trace stores, none larger than ``most``."""
    blocks = {number for request in trace.requests for number in request.blocks}
    counts = (max(_LEAST_BLOCKS, share * len(blocks)) for share in SHARES)
    block_bytes = _token_bytes(machine) * trace.block_tokens
    return sorted({min(most, math.ceil(count * block_bytes)) for count in counts})


def _token_bytes(machine: Machine) -> float:
    layout = KvLayout(machine.shape.kv_map, CacheConfig(kv_dtype=machine.kv_dtype), machine.scheduler.step_tokens)
    return sum(fmt.token_bytes for fmt in layout.formats)
