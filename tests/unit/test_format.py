"""Page formats: cells tile a page exactly, and impossible formats are refused."""

from __future__ import annotations

import pytest

from kvloom.codec import CODECS
from kvloom.errors import ConfigError
from kvloom.memory.format import PAGE_TOKENS, PageFormat

ENTRY_BYTES = {
    "float32": lambda k_dim, v_dim: 4 * (k_dim + v_dim),
    "float16": lambda k_dim, v_dim: 2 * (k_dim + v_dim),
    "bfloat16": lambda k_dim, v_dim: 2 * (k_dim + v_dim),
    "int16": lambda k_dim, v_dim: 2 * (k_dim + v_dim) + 4,
    "int8": lambda k_dim, v_dim: k_dim + v_dim + 8,
}


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize(("k_dim", "v_dim"), [(64, 64), (96, 48)])
def test_cells_tile_the_page(codec: str, k_dim: int, v_dim: int) -> None:
    fmt = PageFormat("full", (0, 4, 5), 3, k_dim, v_dim, codec)
    offsets = [fmt.cell_offset(slot, head) for slot in range(3) for head in range(3)]
    assert offsets == [index * fmt.cell_bytes for index in range(9)]
    assert fmt.page_bytes == offsets[-1] + fmt.cell_bytes
    assert fmt.cell_bytes == CODECS[codec].keys.bytes(k_dim) + CODECS[codec].values.bytes(v_dim)
    assert fmt.cell_bytes == PAGE_TOKENS * ENTRY_BYTES[codec](k_dim, v_dim)
    assert fmt.token_bytes * PAGE_TOKENS == fmt.page_bytes


def test_a_labelled_page_also_holds_positions_and_biases() -> None:
    dense = PageFormat("full", (0,), 1, 64, 64, "float16")
    labelled = PageFormat("per-head", (), 1, 64, 64, "float16", labelled=True)
    assert labelled.page_bytes == dense.page_bytes + PAGE_TOKENS * (4 + 4)


def test_impossible_formats_are_refused() -> None:
    with pytest.raises(ConfigError, match="unknown KV dtype `int3`"):
        PageFormat("full", (0,), 1, 64, 64, "int3")
    with pytest.raises(ConfigError, match="16 tokens, not 8"):
        PageFormat("full", (0,), 1, 64, 64, "float16", tokens=8)
    with pytest.raises(ConfigError, match="holds one head"):
        PageFormat("per-head", (), 2, 64, 64, "float16")
