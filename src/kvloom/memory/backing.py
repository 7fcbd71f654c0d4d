"""What lies behind an arena's addresses."""

from __future__ import annotations

import mmap
from typing import Protocol

import numpy as np

from kvloom.arrays import Bytes

_GIVE_UP = getattr(mmap, "MADV_FREE", mmap.MADV_DONTNEED)
"""Memory reused before the system reclaims it keeps its huge pages and causes no page faults."""


class Backing(Protocol):
    """Bytes by offset from the start of an arena."""

    @property
    def memory(self) -> Bytes:
        """All of them, uint8."""
        ...

    def copy(self, source: int, target: int, size: int) -> None:
        """What is at ``source`` is at ``target`` too from now on."""
        ...

    def give_up(self, start: int, size: int) -> None:
        """The contents are not needed any more."""
        ...


class Mapped:
    """An anonymous mapping of ``size`` bytes. What was never touched takes no physical memory."""

    def __init__(self, size: int) -> None:
        self._mapping = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            self._mapping.madvise(mmap.MADV_HUGEPAGE)
        self.memory: Bytes = np.frombuffer(self._mapping, dtype=np.uint8)

    def copy(self, source: int, target: int, size: int) -> None:
        self.memory[target : target + size] = self.memory[source : source + size]

    def give_up(self, start: int, size: int) -> None:
        """Where supported, the operating system reclaims it only when it runs short."""
        self._mapping.madvise(_GIVE_UP, start, size)
