"""Entries wherever they lie: gathered, as they are stored, in pages of single heads (or gathered again), or decoded.

Legend: L lists, P pages of all lists, B bytes of a page, S entries of a list, X those of them that are stored anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from kvloom import _kernels
from kvloom.arrays import Bytes, Floats
from kvloom.errors import InternalError
from kvloom.memory.arena import GRAIN_BYTES
from kvloom.memory.format import PAGE_TOKENS, PageFormat

Ints = npt.NDArray[np.int32]
Indices = npt.NDArray[np.int64]
Masks = npt.NDArray[np.uint16]
_Number = TypeVar("_Number", bound=np.generic)


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """Where entries of one (layer, KV head) are stored: the byte of the arena's memory at which each one's cell begins,
    and which of the cell's entries it is. Those in dense pages and those in pages of single heads can be joined.
    """

    starts_S: Indices
    slots_S: Ints

    @staticmethod
    def of(fmt: PageFormat, pages_N: npt.ArrayLike, slot: int, head: int, places_S: Indices) -> Cells:
        """Entries of a (layer slot, head) of pages in a row: place n is entry n % PAGE_TOKENS of page n // PAGE_TOKENS.

        In pages of single heads slot and head are 0; the places are those at which there are entries.
        """
        page_S = np.asarray(pages_N, np.int64)[places_S // PAGE_TOKENS]
        return Cells(page_S * GRAIN_BYTES + fmt.cell_offset(slot, head), (places_S % PAGE_TOKENS).astype(np.int32))

    @staticmethod
    def joined(parts: Sequence[Cells]) -> Cells:
        """One after another."""
        starts, slots = [part.starts_S for part in parts], [part.slots_S for part in parts]
        return Cells(_joined(starts, np.empty(0, np.int64)), _joined(slots, np.empty(0, np.int32)))

    def __len__(self) -> int:
        return len(self.starts_S)

    def __getitem__(self, which: Indices) -> Cells:
        return Cells(self.starts_S[which], self.slots_S[which])


@dataclass(frozen=True, slots=True, eq=False)
class Made:
    """Entries that are stored anew: indices among those of a list, and what is encoded in their place."""

    places_X: Indices
    k_XD: Floats
    v_XD: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Contents:
    """What a list is to hold, ascending. ``cells``: where its entries are copied from; they have the codec and the
    dims of the list's pages. ``positions_S`` and ``bias_S``: their labels. ``lead``: how many places of the first page,
    less than all, stay unused before them. ``made``: those that are not copied.
    """

    cells: Cells
    positions_S: Ints | Indices
    bias_S: Floats
    lead: int = 0
    made: Made | None = None

    @property
    def pages(self) -> int:
        """How many they fill."""
        return -(-(self.lead + len(self.cells)) // PAGE_TOKENS) if len(self.cells) else 0


def read(memory: Bytes, fmt: PageFormat, heads: Sequence[Cells], *, keys: bool, threads: int = 1) -> Floats:
    """(S, K, D): the keys or the values of as many entries of each head, decoded. ``fmt``: of the pages they are in.

    Raises InternalError when something does not fit.
    """
    out_SKD = np.empty((len(heads[0]), len(heads), fmt.k_dim if keys else fmt.v_dim), np.float32)
    try:
        _kernels.read(
            memory=memory,
            codec=fmt.codec,
            k_dim=fmt.k_dim,
            v_dim=fmt.v_dim,
            keys=keys,
            cells=np.stack([each.starts_S for each in heads]),
            slots=np.stack([each.slots_S for each in heads]),
            out=out_SKD,
            threads=threads,
        )
    except (TypeError, ValueError) as error:
        raise InternalError(f"entries cannot be read: {error}") from None
    return out_SKD


def gather(memory: Bytes, fmt: PageFormat, lists: Sequence[Contents], threads: int = 1) -> tuple[Bytes, Masks]:
    """What pages of single heads, of the format ``fmt``, hold: ``cells_PB``, and ``masks_P``, in which bit s says
    whether there is an entry s. They are new arrays: ``cells.put_cells`` stores them. The first ``lists[0].pages`` are
    those of the first list, and so on. Places without an entry are zero.

    ``memory``: the arena's, where ``Contents.cells`` are. ``threads``: how many cores to use at most; the result does
    not depend on it. Raises InternalError when something does not fit.
    """
    starts = np.cumsum([0, *(len(each.cells) for each in lists)], dtype=np.int64)
    made = [(each.made, start) for each, start in zip(lists, starts, strict=False) if each.made is not None]
    cells, pages = Cells.joined([each.cells for each in lists]), sum(each.pages for each in lists)
    cells_PB, masks_P = np.empty((pages, fmt.cell_bytes), np.uint8), np.empty(pages, np.uint16)
    try:
        _kernels.gather(
            memory=memory,
            codec=fmt.codec,
            k_dim=fmt.k_dim,
            v_dim=fmt.v_dim,
            bounds=starts,
            leads=np.array([each.lead for each in lists], np.int32),
            cells=cells.starts_S,
            slots=cells.slots_S,
            positions=_joined([each.positions_S for each in lists], np.empty(0, np.int32)),
            biases=_joined([each.bias_S for each in lists], np.empty(0, np.float32)),
            changed=_joined([each.places_X + start for each, start in made], np.empty(0, np.int64)),
            k=_joined([each.k_XD for each, _ in made], np.empty((0, fmt.k_dim), np.float32)),
            v=_joined([each.v_XD for each, _ in made], np.empty((0, fmt.v_dim), np.float32)),
            pages=cells_PB,
            masks=masks_P,
            threads=threads,
        )
    except (TypeError, ValueError) as error:
        raise InternalError(f"entries cannot be gathered: {error}") from None
    return cells_PB, masks_P


def _joined(parts: Sequence[npt.NDArray[Any]], nothing: npt.NDArray[_Number]) -> npt.NDArray[_Number]:
    """One after another, in the type of ``nothing``, which is what no parts come to."""
    return np.concatenate([nothing, *parts], dtype=nothing.dtype, casting="same_kind")
