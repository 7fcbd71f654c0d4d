"""Lists in the making: what pages of single heads will hold, before there are such pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from kvloom.arrays import Bytes
from kvloom.attend.lists import HeadLists
from kvloom.attend.plan import Labelled
from kvloom.memory.cells import put_cells
from kvloom.memory.format import PageFormat
from kvloom.memory.gathering import Contents, gather
from kvloom.memory.ledger import Extent


@dataclass(slots=True, eq=False)
class Lists:
    """What lists of a layer group will be: ``cells``, the bytes of their pages (P, B), by layer slot.

    ``format``: of these pages. ``stop``: as in ``HeadLists``. ``pages``: how many each list has; ``masks``: theirs.
    """

    format: PageFormat
    stop: int = 0
    cells: list[Bytes] = field(default_factory=list)
    pages: list[int] = field(default_factory=list)
    masks: list[npt.NDArray[np.uint16]] = field(default_factory=list)

    def add(self, memory: Bytes, contents: Sequence[Contents], threads: int) -> None:
        """A layer, by KV head."""
        cells_PB, masks_P = gather(memory, self.format, contents, threads)
        self.cells.append(cells_PB)
        self.masks.append(masks_P)
        self.pages += [each.pages for each in contents]

    def put(self, memory: Bytes, extent: Extent | None) -> HeadLists:
        """Write them to the pages of ``extent``, which has as many; None: there are none."""
        ids_P = np.array([] if extent is None else extent.pages, np.int32)
        slots = len(self.cells)
        bounds_L1 = np.cumsum([0, *self.pages]).astype(np.int32)
        heads = len(self.pages) // slots
        of_slots = np.split(ids_P, bounds_L1[heads:-1:heads])
        for pages_P, cells_PB in zip(of_slots, self.cells, strict=True):
            put_cells(memory, self.format, pages_P, cells_PB)
        masks_P = np.concatenate(self.masks)
        return HeadLists(self.format, Labelled(), slots, heads, ids_P, bounds_L1, masks_P, stop=self.stop)
