"""Keys and values of a fused prompt, decoded: of the check layer, as it was computed, and of documents, as they lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kvloom.arrays import Floats
from kvloom.engine.kv import SequenceKv
from kvloom.engine.kv.fused import Overlay, PagesRead, Read
from kvloom.engine.layout import KvLayout
from kvloom.memory.format import PageFormat
from kvloom.memory.gathering import Cells, read

Positions = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class StoredRows:
    """``reads``: the documents of the prompt. ``threads``: how many cores to use at most."""

    kv: SequenceKv
    layout: KvLayout
    reads: Sequence[Read]
    threads: int

    def computed(self, layer: int, positions_N: Positions, *, keys: bool) -> Floats:
        """(N, K, D) of a layer up to the check layer, in which all rows are computed."""
        _, group, slot = self.layout.place(layer)
        assert self.kv.split is not None
        table = self.kv.tables[self.kv.split.tables[group]]
        return self._stored(table.format, table.ids, slot, positions_N, keys=keys)

    def again(self, layer: int, overlay: Overlay, rows_R: Positions) -> Floats:
        """(R, K, D): values that were computed again."""
        _, group, slot = self.layout.place(layer)
        extent, places_R = overlay.extents[group], np.searchsorted(overlay.positions, rows_R)
        return self._stored(extent.format, extent.pages, slot, places_R, keys=False)

    def old_values(self, layer: int, positions_N: Positions, others_NKD: Floats) -> Floats:
        """(N, K, D): values of documents, at ascending positions; elsewhere ``others_NKD``."""
        fmt, group, slot = self.layout.place(layer)
        old_NKD = others_NKD.copy()
        for each in self.reads:
            assert isinstance(each, PagesRead)
            inside = slice(*np.searchsorted(positions_N, (each.span.start, each.span.stop)).tolist())
            places = positions_N[inside] - each.shift - each.base
            old_NKD[inside] = self._stored(fmt, each.pages[group], slot, places, keys=False)
        return old_NKD

    def _stored(self, fmt: PageFormat, pages: Sequence[int], slot: int, places_N: Positions, *, keys: bool) -> Floats:
        cells = [Cells.of(fmt, pages, slot, head, places_N) for head in range(fmt.heads)]
        return read(self.kv.ledger.arena.memory, fmt, cells, keys=keys, threads=self.threads)
