"""Views of what a page holds, as it is stored: for the reference of attend, and for whoever compacts KV."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from kvloom.arrays import Bytes, Floats
from kvloom.codec.int16 import decode_keys
from kvloom.memory.arena import GRAIN_BYTES
from kvloom.memory.format import PageFormat

Stored = npt.NDArray[Any]
"""Keys or values as a page holds them. numpy knows no bfloat16, whose bits are uint16; keys of int16 are words."""

_DTYPES: dict[str, tuple[type[np.generic], type[np.generic]]] = {
    "float32": (np.float32, np.float32),
    "float16": (np.float16, np.float16),
    "bfloat16": (np.uint16, np.uint16),
    "int16": (np.uint32, np.float16),
}
"""Of keys and of values, by codec."""


def cell(memory: Bytes, fmt: PageFormat, page: int, layer_slot: int, head: int) -> tuple[Stored, Stored]:
    """(keys_DS, values_SD) of one (layer, head) of a page; one without layers has a single cell.

    One row of keys_DS is a component of all keys or, of int16 keys, a word.
    """
    start = page * GRAIN_BYTES + fmt.cell_offset(layer_slot, head)
    middle, stop = start + fmt.k_bytes, start + fmt.k_bytes + fmt.v_bytes
    of_keys, of_values = _DTYPES[fmt.codec]
    keys, values = memory[start:middle].view(of_keys), memory[middle:stop].view(of_values)
    return keys.reshape(-1, fmt.tokens), values.reshape(fmt.tokens, fmt.v_dim)


def nothing(fmt: PageFormat) -> tuple[Stored, Stored]:
    """(k_SD, v_SD) of no entries, as they would be stored."""
    of_keys, of_values = _DTYPES[fmt.codec]
    width = fmt.numbers.key_bytes(fmt.k_dim) // np.dtype(of_keys).itemsize
    return np.zeros((0, width), of_keys), np.zeros((0, fmt.v_dim), of_values)


def labels(
    memory: Bytes, fmt: PageFormat, page: int, layer_slot: int = 0, head: int = 0
) -> tuple[npt.NDArray[np.int32], Floats]:
    """(positions_S, bias_S) of one (layer, head) of a labelled page."""
    start = page * GRAIN_BYTES + fmt.cell_offset(layer_slot, head) + fmt.k_bytes + fmt.v_bytes
    middle, stop = start + 4 * fmt.tokens, start + 8 * fmt.tokens
    return memory[start:middle].view(np.int32), memory[middle:stop].view(np.float32)


def decoded(k_SD: Stored, v_SD: Stored, codec: str) -> tuple[Floats, Floats]:
    """What stored keys and values mean."""
    if codec == "int16":
        return decode_keys(k_SD), v_SD.astype(np.float32)
    return _as_floats(k_SD, codec), _as_floats(v_SD, codec)


def _as_floats(stored: Stored, codec: str) -> Floats:
    if codec == "bfloat16":
        return (stored.astype(np.uint32) << 16).view(np.float32)
    return stored.astype(np.float32)
