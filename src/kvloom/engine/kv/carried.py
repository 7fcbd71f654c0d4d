"""Hidden states that wait between two layers, in pages of the arena."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kvloom.arrays import Floats
from kvloom.memory.arena import GRAIN_BYTES, page_stride
from kvloom.memory.format import PAGE_TOKENS, PageFormat
from kvloom.memory.ledger import Extent, Ledger
from kvloom.segment import PageId


def hidden_format(width: int) -> PageFormat:
    """Pages for the hidden states of ``PAGE_TOKENS`` rows, one after another, float32."""
    return PageFormat("hidden", (), 1, width - width // 2, width // 2, "float32", labelled=True)


@dataclass(slots=True, eq=False)
class Carried:
    """Room for the hidden states of ``rows`` rows of a sequence, float32 (rows, ``width``).

    They lie in an extent that ``owner`` holds: so they count as KV that is held, within the same budget, idle pages
    make room for them, and the audit knows of them.
    """

    ledger: Ledger
    owner: str
    width: int
    rows: int
    extent: Extent

    @staticmethod
    def take(ledger: Ledger, owner: str, rows: int, width: int) -> Carried | None:
        """None: no room, and nothing is taken. ``rows``: at least one."""
        fmt = hidden_format(width)
        if page_stride(fmt) > ledger.arena.slab_bytes:
            return None
        extent = ledger.allocate_extent(fmt, pages_for(rows), owner)
        return None if extent is None else Carried(ledger, owner, width, rows, extent)

    def put(self, first: int, x_RC: Floats) -> None:
        """Store rows from number ``first`` on."""
        reached = 0
        for part_RC in self._parts(first, len(x_RC)):
            part_RC[:] = x_RC[reached : reached + len(part_RC)]
            reached += len(part_RC)

    def get(self, first: int, count: int) -> Floats:
        """A copy of rows from number ``first`` on."""
        parts = list(self._parts(first, count))
        return np.concatenate(parts) if parts else np.empty((0, self.width), np.float32)

    def keep(self, rows_R: npt.NDArray[np.int64]) -> None:
        """Only these rows go on, ascending: they become numbers 0, 1, ..."""
        for number, row in enumerate(rows_R.tolist()):
            if number != row:
                self.put(number, self.get(row, 1))

    def release(self) -> None:
        self.ledger.release([self.extent.page], self.owner)

    def abandon(self) -> None:
        """As ``release``, after a failure."""
        self.ledger.abandon([self.extent.page], self.owner)

    def holdings(self) -> Iterator[tuple[PageId, str]]:
        yield self.extent.page, self.owner

    def _parts(self, first: int, count: int) -> Iterator[Floats]:
        """The rows page by page, where they lie."""
        memory, size = self.ledger.arena.memory, 4 * self.width
        stop = first + count
        assert 0 <= first <= stop <= self.rows, f"rows {first} to {stop} of {self.rows}"
        while first < stop:
            page, row = divmod(first, PAGE_TOKENS)
            rows = min(PAGE_TOKENS - row, stop - first)
            start = self.extent.pages[page] * GRAIN_BYTES + row * size
            yield memory[start : start + rows * size].view(np.float32).reshape(rows, self.width)
            first += rows


def pages_for(rows: int) -> int:
    return -(-rows // PAGE_TOKENS)
