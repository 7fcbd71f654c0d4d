"""Memory for packed weights: huge pages, shared by matrices."""

from __future__ import annotations

import mmap

import numpy as np

from kvloom.arrays import CACHE_LINE_BYTES, Bytes

HUGE_PAGE_BYTES = 2**21
CHUNK_BYTES = 32 * HUGE_PAGE_BYTES


class WeightMemory:
    """Cuts matrices from chunks of anonymous memory, for which it asks the system to use huge pages.

    A step reads all weights once, and with pages of 4 KiB a core's prefetcher stops at the end of each. One matrix of
    a small model is shorter than a huge page, so matrices share them. Unused parts cost no physical memory.
    Chunks live as long as their matrices do.
    """

    def __init__(self) -> None:
        self._rest = np.empty(0, np.uint8)

    def take(self, count: int) -> Bytes:
        """``count`` zero bytes, aligned to a cache line."""
        if count > self._rest.size:
            self._rest = _chunk(max(count, CHUNK_BYTES))
        taken = self._rest[:count]
        self._rest = self._rest[-(-count // CACHE_LINE_BYTES) * CACHE_LINE_BYTES :]
        return taken


def _chunk(count: int) -> Bytes:
    """At least ``count`` bytes, aligned to a huge page."""
    mapping = mmap.mmap(-1, count + HUGE_PAGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        mapping.madvise(mmap.MADV_HUGEPAGE)
    memory = np.frombuffer(mapping, np.uint8)
    return memory[-memory.ctypes.data % HUGE_PAGE_BYTES :]
