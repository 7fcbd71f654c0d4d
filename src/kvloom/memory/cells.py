"""Views of what a page holds, in the stored dtype: for the reference of attend, and for whoever compacts KV."""

from __future__ import annotations

import torch

from kvloom.memory.arena import GRAIN_BYTES
from kvloom.memory.format import PageFormat


def cell(
    memory: torch.Tensor, fmt: PageFormat, page: int, layer_slot: int, head: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """(keys_DS, values_SD) of one (layer, head) of a page; a ragged page has the one at (0, 0)."""
    start = page * GRAIN_BYTES + fmt.cell_offset(layer_slot, head)
    middle, stop = start + fmt.k_bytes, start + fmt.k_bytes + fmt.v_bytes
    keys_DS = memory[start:middle].view(fmt.numbers.dtype).view(fmt.k_dim, fmt.tokens)
    return keys_DS, memory[middle:stop].view(fmt.numbers.dtype).view(fmt.tokens, fmt.v_dim)


def labels(memory: torch.Tensor, fmt: PageFormat, page: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(positions_S int32, bias_S float32) of a ragged page."""
    start = page * GRAIN_BYTES + fmt.k_bytes + fmt.v_bytes
    middle, stop = start + 4 * fmt.tokens, start + 8 * fmt.tokens
    return memory[start:middle].view(torch.int32), memory[middle:stop].view(torch.float32)
