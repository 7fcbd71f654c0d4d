"""Views of what a page holds, as it is stored: for the reference of attend, and for whoever compacts KV."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from kvloom.arrays import Bytes, Floats
from kvloom.memory.arena import GRAIN_BYTES
from kvloom.memory.format import PageFormat

Stored = npt.NDArray[Any]
"""Keys or values as a page holds them; numpy knows no bfloat16, whose bits are uint16."""

_DTYPES: dict[str, type[np.generic]] = {"float32": np.float32, "float16": np.float16, "bfloat16": np.uint16}
"""By codec."""


def cell(memory: Bytes, fmt: PageFormat, page: int, layer_slot: int, head: int) -> tuple[Stored, Stored]:
    """(keys_DS, values_SD) of one (layer, head) of a page; a ragged page has the one at (0, 0)."""
    start = page * GRAIN_BYTES + fmt.cell_offset(layer_slot, head)
    middle, stop = start + fmt.k_bytes, start + fmt.k_bytes + fmt.v_bytes
    keys, values = (memory[a:b].view(_DTYPES[fmt.codec]) for a, b in ((start, middle), (middle, stop)))
    return keys.reshape(fmt.k_dim, fmt.tokens), values.reshape(fmt.tokens, fmt.v_dim)


def labels(memory: Bytes, fmt: PageFormat, page: int) -> tuple[npt.NDArray[np.int32], Floats]:
    """(positions_S, bias_S) of a ragged page."""
    start = page * GRAIN_BYTES + fmt.k_bytes + fmt.v_bytes
    middle, stop = start + 4 * fmt.tokens, start + 8 * fmt.tokens
    return memory[start:middle].view(np.int32), memory[middle:stop].view(np.float32)


def decoded(stored: Stored, codec: str) -> Floats:
    """What stored values mean."""
    if codec == "bfloat16":
        return (stored.astype(np.uint32) << 16).view(np.float32)
    return stored.astype(np.float32)
