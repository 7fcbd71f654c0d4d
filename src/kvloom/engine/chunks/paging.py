"""Pages to arrays and back, by layer: through the codec of the pages.

Legend: P pages, C cells of a page (layers x heads), B bytes of a cell, H KV heads, n tokens, S of a page, D head dim.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from kvloom.arrays import Bytes, Floats
from kvloom.codec.base import Stream
from kvloom.memory.cells import page_cells
from kvloom.memory.format import PAGE_TOKENS, PageFormat
from kvloom.segment import PageId

ByLayer = Mapping[int, Floats]


def cells_of(memory: Bytes, fmt: PageFormat, pages: Sequence[PageId]) -> Bytes:
    """The cells of these pages, copied: (P, C, B)."""
    return np.stack([page_cells(memory, fmt, page) for page in pages])


def decoded(fmt: PageFormat, cells_PCB: Bytes, n: int) -> tuple[dict[int, Floats], dict[int, Floats]]:
    """(keys, values) of the first ``n`` tokens, by layer, float32 (H, n, D); keys as they were stored: turned."""
    numbers, stop = fmt.numbers, fmt.k_bytes + fmt.v_bytes
    k = _by_layer(fmt, numbers.keys.decode(_blocks(cells_PCB, 0, fmt.k_bytes), fmt.k_dim), n)
    v = _by_layer(fmt, numbers.values.decode(_blocks(cells_PCB, fmt.k_bytes, stop), fmt.v_dim), n)
    return k, v


def encoded(fmt: PageFormat, keys: ByLayer, values: ByLayer) -> Bytes:
    """The inverse: cells (P, C, B) for turned keys. Entries after the last token are those of zeros."""
    k = fmt.numbers.keys.encode(_of_pages(fmt, keys))
    v = fmt.numbers.values.encode(_of_pages(fmt, values))
    cells = np.concatenate([k, v], axis=1)
    return cells.reshape(-1, len(fmt.layers) * fmt.heads, fmt.cell_bytes)


def same_entries(fmt: PageFormat, a_PCB: Bytes, b_PCB: Bytes, n: int) -> bool:
    """Whether the first ``n`` tokens have the same bits in both."""
    parts: tuple[tuple[Stream, int, int, int], ...] = (
        (fmt.numbers.keys, 0, fmt.k_bytes, fmt.k_dim),
        (fmt.numbers.values, fmt.k_bytes, fmt.k_bytes + fmt.v_bytes, fmt.v_dim),
    )
    for stream, start, stop, dim in parts:
        a, b = (stream.entries(_blocks(cells, start, stop), dim) for cells in (a_PCB, b_PCB))
        if not np.array_equal(_tokens(fmt, a, n), _tokens(fmt, b, n)):
            return False
    return True


# -- inside ------------------------------------------------------------------------------------------------------------


def _blocks(cells_PCB: Bytes, start: int, stop: int) -> Bytes:
    return np.ascontiguousarray(cells_PCB[..., start:stop]).reshape(-1, stop - start)


def _tokens(fmt: PageFormat, entries_NSE: Bytes, n: int) -> Bytes:
    """(C, n, E)"""
    cells, width = len(fmt.layers) * fmt.heads, entries_NSE.shape[-1]
    by_cell = entries_NSE.reshape(-1, cells, PAGE_TOKENS, width).transpose(1, 0, 2, 3)
    return by_cell.reshape(cells, -1, width)[:, :n]


def _by_layer(fmt: PageFormat, x_NSD: Floats, n: int) -> dict[int, Floats]:
    cells, dim = len(fmt.layers) * fmt.heads, x_NSD.shape[-1]
    by_cell = x_NSD.reshape(-1, cells, PAGE_TOKENS, dim).transpose(1, 0, 2, 3).reshape(cells, -1, dim)[:, :n]
    return {layer: by_cell[slot * fmt.heads : (slot + 1) * fmt.heads].copy() for slot, layer in enumerate(fmt.layers)}


def _of_pages(fmt: PageFormat, of_layers: ByLayer) -> Floats:
    """(P * C, S, D)"""
    x_CnD = np.concatenate([of_layers[layer] for layer in fmt.layers])
    cells, n, dim = x_CnD.shape
    pages = -(-n // PAGE_TOKENS)
    padded = np.zeros((cells, pages * PAGE_TOKENS, dim), np.float32)
    padded[:, :n] = x_CnD
    by_page = padded.reshape(cells, pages, PAGE_TOKENS, dim).transpose(1, 0, 2, 3)
    return np.ascontiguousarray(by_page).reshape(-1, PAGE_TOKENS, dim)
