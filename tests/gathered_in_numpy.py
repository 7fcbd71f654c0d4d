"""Pages of single heads made in numpy, entry by entry as the codecs store them: what the kernel has to equal."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from kvloom.arrays import Bytes, Floats
from kvloom.codec.base import Stream
from kvloom.memory.cells import page_cells
from kvloom.memory.format import PAGE_TOKENS, PageFormat
from kvloom.memory.gathering import Contents


def gathered(memory: Bytes, fmt: PageFormat, lists: Sequence[Contents]) -> tuple[Bytes, npt.NDArray[np.uint16]]:
    """As ``kvloom.memory.gathering.gather``."""
    cells, masks = [np.empty((0, fmt.cell_bytes), np.uint8)], [np.empty(0, np.uint16)]
    for each in lists:
        if not len(each.cells):
            continue
        keys_SE, values_SE = _entries(memory, fmt, each)
        if each.made is not None:
            keys_SE[each.made.places_X] = _encoded(fmt.numbers.keys, each.made.k_XD)
            values_SE[each.made.places_X] = _encoded(fmt.numbers.values, each.made.v_XD)
        labels = each.positions_S.astype(np.int32), each.bias_S.astype(np.float32)
        parts = [
            fmt.numbers.keys.blocks(_paged(keys_SE, each.lead), fmt.k_dim),
            fmt.numbers.values.blocks(_paged(values_SE, each.lead), fmt.v_dim),
            *(_paged(x[:, None].view(np.uint8), each.lead).reshape(-1, 4 * PAGE_TOKENS) for x in labels),
        ]
        cells.append(np.concatenate(parts, axis=1))
        there = np.zeros(len(cells[-1]) * PAGE_TOKENS, np.uint16)
        there[each.lead : each.lead + len(each.cells)] = 1
        masks.append((there.reshape(-1, PAGE_TOKENS) << np.arange(PAGE_TOKENS)).sum(axis=1).astype(np.uint16))
    return np.concatenate(cells), np.concatenate(masks)


def _entries(memory: Bytes, fmt: PageFormat, contents: Contents) -> tuple[Bytes, Bytes]:
    """Copies, (S, E)."""
    middle, stop = fmt.k_bytes, fmt.k_bytes + fmt.v_bytes
    cells_SB = np.stack([memory[start : start + stop] for start in contents.cells.starts_S])
    entry_S = np.arange(len(cells_SB)), contents.cells.slots_S
    keys_SE = fmt.numbers.keys.entries(cells_SB[:, :middle], fmt.k_dim)[entry_S]
    return keys_SE, fmt.numbers.values.entries(cells_SB[:, middle:], fmt.v_dim)[entry_S]


def _paged(entries_SE: Bytes, lead: int) -> Bytes:
    """Entries by page (N, PAGE_TOKENS, E) after ``lead`` unused ones; unused entries are zero."""
    count, width = entries_SE.shape
    padded = np.zeros((-(-(lead + count) // PAGE_TOKENS) * PAGE_TOKENS, width), np.uint8)
    padded[lead : lead + count] = entries_SE
    return padded.reshape(-1, PAGE_TOKENS, width)


def _encoded(stream: Stream, x_SD: Floats) -> Bytes:
    """As they are stored, (S, E)."""
    padded_SD = np.zeros((-(-len(x_SD) // PAGE_TOKENS) * PAGE_TOKENS, x_SD.shape[1]), np.float32)
    padded_SD[: len(x_SD)] = x_SD
    blocks_NB = stream.encode(padded_SD.reshape(-1, PAGE_TOKENS, x_SD.shape[1]))
    entries_NSE = stream.entries(blocks_NB, x_SD.shape[1])
    return entries_NSE.reshape(-1, entries_NSE.shape[-1])[: len(x_SD)]


def filled(memory: Bytes, fmt: PageFormat, pages: Sequence[int], rng: np.random.Generator) -> None:
    """Put random numbers into pages."""
    for page in pages:
        for cell_B in page_cells(memory, fmt, page):
            for stream, dim, at in (
                (fmt.numbers.keys, fmt.k_dim, 0),
                (fmt.numbers.values, fmt.v_dim, fmt.k_bytes),
            ):
                x_1SD = rng.normal(size=(1, PAGE_TOKENS, dim)).astype(np.float32)
                cell_B[at : at + stream.bytes(dim)] = stream.encode(x_1SD)[0]
