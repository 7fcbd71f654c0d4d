"""Comparing token lists, and the un-permuting of GGUF's rotary rows."""

from __future__ import annotations

import numpy as np

from bench.claims.identical_tokens import Divergence, Reference, first_divergence
from bench.peers.dequantized import _half_split
from bench.text import prompts


def test_the_first_divergence_is_found_with_its_gap() -> None:
    reference = Reference([1], [5, 6, 7, 8], [3.0, 2.0, 5e-4, 1.0])
    assert first_divergence(0, [5, 6, 7, 8], reference) is None
    tie = first_divergence(3, [5, 6, 9, 1], reference)
    assert tie == Divergence(3, 2, 9, 7, 5e-4)
    assert tie.excused
    clear = first_divergence(3, [5, 2, 7, 8], reference)
    assert clear is not None
    assert not clear.excused


def test_half_split_undoes_the_interleaving() -> None:
    heads, half, width = 3, 4, 5
    rows = np.arange(heads * 2 * half * width, dtype=np.float32).reshape(heads * 2 * half, width)
    interleaved = rows.reshape(heads, 2, half, width).swapaxes(1, 2).reshape(rows.shape)  # as GGUF stores it
    assert not np.array_equal(interleaved, rows)
    np.testing.assert_array_equal(_half_split(interleaved, heads), rows)


def test_there_are_twenty_different_prompts() -> None:
    assert len(set(prompts())) == 20
