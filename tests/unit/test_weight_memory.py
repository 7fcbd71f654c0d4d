"""Memory of packed weights: whole cache lines, never shared, whatever is asked for."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kvloom.arrays import CACHE_LINE_BYTES, Bytes
from kvloom.model.weight_memory import CHUNK_BYTES, HUGE_PAGE_BYTES, WeightMemory

COUNTS = st.one_of(st.integers(1, 5000), st.integers(CHUNK_BYTES - 100, CHUNK_BYTES + 100))


def line_range(piece: Bytes) -> range:
    """Of the cache lines that hold it."""
    first = piece.ctypes.data // CACHE_LINE_BYTES
    return range(first, first + -(-piece.size // CACHE_LINE_BYTES))


@given(counts=st.lists(COUNTS, max_size=12))
def test_pieces_share_no_cache_line(counts: list[int]) -> None:
    memory = WeightMemory()
    pieces = [memory.take(count) for count in counts]
    assert [piece.size for piece in pieces] == counts
    assert all(piece.ctypes.data % CACHE_LINE_BYTES == 0 for piece in pieces)
    lines = sorted((line_range(piece) for piece in pieces), key=lambda lines: lines.start)
    assert all(before.stop <= after.start for before, after in pairwise(lines))


def test_small_pieces_follow_one_another_from_a_huge_page() -> None:
    memory = WeightMemory()
    first, second = memory.take(70), memory.take(64)
    assert first.ctypes.data % HUGE_PAGE_BYTES == 0
    assert second.ctypes.data - first.ctypes.data == 128


def test_pieces_outlive_their_memory() -> None:
    pieces = [WeightMemory().take(1000) for _ in range(3)]
    for value, piece in enumerate(pieces):
        piece[:] = value
    assert [np.unique(piece).tolist() for piece in pieces] == [[0], [1], [2]]
