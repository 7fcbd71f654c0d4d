"""A tier in which things go wrong, as often as asked: to see that a deployment stands it.

Slowness, errors and lack of room are made up in front of the tier. Damage is done to the bytes where they are kept, so
that it is the tier's own verification that finds it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from threading import Lock
from typing import Protocol

from kvloom.config import FAULT_NAMES, TierFaults
from kvloom.memory.tier.base import Fault, Place, StoredPage, Tier, TierFault, TierUsage
from kvloom.memory.tier.writer import Other

Damage = Callable[[bytes], bytes]
"""What becomes of the bytes of a page, its header included where it has one. Never longer than they were."""


class Damageable(Tier, Protocol):
    """A tier that lets faults be injected into what it keeps."""

    def damage(self, place: Place, damage: Damage) -> None:
        """Change the bytes of a page where they are kept, behind the tier's back; nothing if it is not there."""
        ...


class FaultyTier:
    """Another tier with faults: see ``TierFaults``. ``sleep``: what takes longer calls it with seconds."""

    def __init__(self, tier: Damageable, faults: TierFaults, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self.name = tier.name
        self._tier = tier
        self._faults = faults
        self._sleep = sleep
        self._random = random.Random(faults.seed)
        self._lock = Lock()

    def holds(self, place: Place) -> bool:
        return self._tier.holds(place)

    def write(self, page: StoredPage) -> None:
        drawn, _ = self._draw()
        self._delay_or_fail(drawn)
        if "full" in drawn:
            raise TierFault(Fault.FULL, f"injected: the {self.name} tier is full")
        self._tier.write(page)

    def read(self, place: Place, tokens: tuple[int, ...], into: memoryview) -> None:
        drawn, where = self._draw()
        self._delay_or_fail(drawn)
        if "short" in drawn:
            self._tier.damage(place, lambda data: data[: int(where * len(data))])
        if "corrupt" in drawn:
            self._tier.damage(place, lambda data: with_bit_flipped(data, int(where * 8 * len(data))))
        self._tier.read(place, tokens, into)

    def clear(self) -> None:
        self._tier.clear()

    def usage(self) -> TierUsage:
        return self._tier.usage()

    def other_writers(self) -> Sequence[Other]:
        return self._tier.other_writers()

    def close(self) -> None:
        self._tier.close()

    def _draw(self) -> tuple[set[str], float]:
        """What goes wrong this time, and a fraction in [0, 1): always as many draws, so that a seed says all."""
        with self._lock:
            drawn = {name for name in FAULT_NAMES if self._random.random() < getattr(self._faults, name)}
            return drawn, self._random.random()

    def _delay_or_fail(self, drawn: set[str]) -> None:
        if "slow" in drawn:
            self._sleep(self._faults.slow_seconds)
        if "fail" in drawn:
            raise TierFault(Fault.FAILED, f"injected: the {self.name} tier failed")


def with_bit_flipped(data: bytes, bit: int) -> bytes:
    """``bit``: counted from the first byte's lowest."""
    if bit >= 8 * len(data):
        return data
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)
