"""Who does the work of tiers beside the engine's thread: threads, or whatever a simulation has in their place."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

from kvloom.engine.threads import Threads
from kvloom.engine.tiers.alarm import Timer
from kvloom.engine.tiers.load import Load
from kvloom.memory.tier.base import Tier

READERS = 2
"""Threads that read from a tier: one verifies while the other waits for the medium."""


class Writer(Protocol):
    def submit(self, work: Callable[[], None]) -> None:
        """Do ``work``, which must not raise, in the order of calls."""
        ...


class Reader(Protocol):
    def read(self, load: Load) -> None:
        """Fetch what ``load`` wants of this reader's tier, by ``READERS`` at once, after all that was asked before."""
        ...


class Background(Protocol):
    """``grain``: tokens that one stands for; what takes so many times longer then is not slow."""

    @property
    def grain(self) -> int: ...
    def writer(self, tier: Tier) -> Writer: ...
    def reader(self, tier: Tier) -> Reader: ...
    def offloads(self, tier: Tier) -> Writer:
        """Of pages that are held until they have left."""
        ...

    def timer(self, seconds: float, call: Callable[[], None]) -> Timer:
        """Call it in so many seconds, unless it is cancelled before."""
        ...


class InThreads:
    """Begun when there is work."""

    grain = 1

    def writer(self, tier: Tier) -> Writer:
        return Threads(f"kvloom-{tier.name}-write", 1)

    def reader(self, tier: Tier) -> Reader:
        return _Readers(tier)

    def offloads(self, tier: Tier) -> Writer:
        return Threads(f"kvloom-{tier.name}-offload", 1)

    def timer(self, seconds: float, call: Callable[[], None]) -> Timer:
        timer = threading.Timer(seconds, call)
        timer.daemon = True
        timer.start()
        return timer


class _Readers:
    def __init__(self, tier: Tier) -> None:
        self._tier = tier
        self._threads = Threads(f"kvloom-{tier.name}-read", READERS)

    def read(self, load: Load) -> None:
        for _ in range(READERS):
            self._threads.submit(lambda: load.read_from(self._tier))
