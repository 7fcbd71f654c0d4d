"""Views of a page's stored contents: for attend's reference, and for compacting or recoding KV."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from kvloom.arrays import Bytes, Floats
from kvloom.memory.arena import GRAIN_BYTES
from kvloom.memory.format import PageFormat

Pages = npt.NDArray[np.int32] | Sequence[int]


def cell(memory: Bytes, fmt: PageFormat, page: int, layer_slot: int, head: int) -> tuple[Bytes, Bytes]:
    """The blocks of keys and of values of one (layer, head) of a page; one without layers has a single cell."""
    start = page * GRAIN_BYTES + fmt.cell_offset(layer_slot, head)
    middle, stop = start + fmt.k_bytes, start + fmt.k_bytes + fmt.v_bytes
    return memory[start:middle], memory[middle:stop]


def put_cells(memory: Bytes, fmt: PageFormat, pages: Pages, cells_NB: Bytes) -> None:
    """Fill pages that have a single cell."""
    _cells(memory, fmt, 0, 0)[np.asarray(pages, np.int64)] = cells_NB


def _cells(memory: Bytes, fmt: PageFormat, layer_slot: int, head: int) -> Bytes:
    """The cell that one (layer, head) would have in a page that began at each grain: a view whose rows overlap."""
    place = memory[fmt.cell_offset(layer_slot, head) :]
    grains = (place.size - fmt.cell_bytes) // GRAIN_BYTES + 1
    return np.lib.stride_tricks.as_strided(place, (grains, fmt.cell_bytes), (GRAIN_BYTES, 1))


def decoded(memory: Bytes, fmt: PageFormat, page: int, layer_slot: int, head: int) -> tuple[Floats, Floats]:
    """(k_SD, v_SD) of one (layer, head) of a page, decoded."""
    keys_B, values_B = cell(memory, fmt, page, layer_slot, head)
    numbers = fmt.numbers
    return numbers.keys.decode(keys_B[None], fmt.k_dim)[0], numbers.values.decode(values_B[None], fmt.v_dim)[0]


def labels(
    memory: Bytes, fmt: PageFormat, page: int, layer_slot: int = 0, head: int = 0
) -> tuple[npt.NDArray[np.int32], Floats]:
    """(positions_S, bias_S) of one (layer, head) of a labelled page."""
    start = page * GRAIN_BYTES + fmt.cell_offset(layer_slot, head) + fmt.k_bytes + fmt.v_bytes
    middle, stop = start + 4 * fmt.tokens, start + 8 * fmt.tokens
    return memory[start:middle].view(np.int32), memory[middle:stop].view(np.float32)


def all_labels(memory: Bytes, fmt: PageFormat, pages: Pages) -> tuple[npt.NDArray[np.int32], Floats]:
    """(positions_NS, bias_NS) of several labelled pages that have a single cell."""
    labels_NB = _cells(memory, fmt, 0, 0)[np.asarray(pages, np.int64), fmt.k_bytes + fmt.v_bytes :]
    middle = 4 * fmt.tokens
    return labels_NB[:, :middle].copy().view(np.int32), labels_NB[:, middle:].copy().view(np.float32)


def recode(memory: Bytes, source: PageFormat, page: int, target: PageFormat, to: int) -> None:
    """Re-encode ``page`` into the page ``to``."""
    _recode(page_cells(memory, source, page), source, page_cells(memory, target, to), target)


def recoded(page_B: Bytes, source: PageFormat, target: PageFormat) -> Bytes:
    """A page's bytes, re-encoded."""
    into = np.zeros((page_B.size // source.cell_bytes, target.cell_bytes), np.uint8)
    _recode(page_B.reshape(-1, source.cell_bytes), source, into, target)
    return into.reshape(-1)


def _recode(cells: Bytes, source: PageFormat, into: Bytes, target: PageFormat) -> None:
    """All cells at once, labels unchanged."""
    k_NSD = source.numbers.keys.decode(cells[:, : source.k_bytes], source.k_dim)
    v_NSD = source.numbers.values.decode(cells[:, source.k_bytes : source.k_bytes + source.v_bytes], source.v_dim)
    middle, stop = target.k_bytes, target.k_bytes + target.v_bytes
    into[:, :middle] = target.numbers.keys.encode(k_NSD)
    into[:, middle:stop] = target.numbers.values.encode(v_NSD)
    into[:, stop:] = cells[:, source.k_bytes + source.v_bytes :]


def page_cells(memory: Bytes, fmt: PageFormat, page: int) -> Bytes:
    """The bytes of a page, a row for each (layer, head)."""
    start = page * GRAIN_BYTES
    return memory[start : start + fmt.page_bytes].reshape(-1, fmt.cell_bytes)
