"""Packed weights hold exactly what the file holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ggml_blocks import KINDS, block_cols, dequantized, random_raw

from kvloom.errors import ModelFileError, UnsupportedModel
from kvloom.model.weight import Weight, kinds


def pack(kind: str, rows: int, cols: int, seed: int = 0) -> Weight:
    return Weight.pack(random_raw(kind, rows, cols, seed), kind, (rows, cols))


def test_every_kind_is_tested() -> None:
    assert set(kinds()) == set(KINDS)


@pytest.mark.parametrize("rows", [1, 16, 17, 32, 33, 95])
@pytest.mark.parametrize("blocks", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_values_equal_the_reference_bit_for_bit(kind: str, rows: int, blocks: int) -> None:
    cols = blocks * (7 if block_cols(kind) == 1 else block_cols(kind))
    raw = random_raw(kind, rows, cols)
    ours, theirs = Weight.pack(raw, kind, (rows, cols)).dequantize(), dequantized(raw, kind)
    if kind == "Q4_0":
        theirs = theirs + np.float32(0)  # -0.0 becomes 0.0
    np.testing.assert_array_equal(ours.view(np.int32), theirs.view(np.int32))


def test_halves_of_every_bit_pattern() -> None:
    patterns = np.arange(1 << 16, dtype=np.uint16)
    finite = patterns[np.isfinite(patterns.view(np.float16))].reshape(32, -1)
    ours = Weight.pack(finite, "F16", finite.shape).dequantize()
    np.testing.assert_array_equal(ours, finite.view(np.float16).astype(np.float32))


@pytest.mark.parametrize("kind", KINDS)
def test_threads_pack_the_same_bytes(kind: str) -> None:
    raw = random_raw(kind, 200, 256)
    one, two = (Weight.pack(raw, kind, (200, 256), threads=threads) for threads in (1, 2))
    assert np.array_equal(one.parts[0].packed, two.parts[0].packed)


@pytest.mark.parametrize("kind", KINDS)
def test_packed_weights_take_the_bytes_of_the_file(kind: str) -> None:
    """Q4_K and Q5_K a little more: their scales have a byte each, not six bits."""
    most = {"Q4_K": 148 / 144, "Q5_K": 180 / 176}.get(kind, 1)
    assert pack(kind, 64, 512).nbytes == random_raw(kind, 64, 512).nbytes * most


def test_gather_takes_rows_in_the_order_asked() -> None:
    weight = pack("Q8_0", 100, 64)
    ids = np.array([99, 0, 31, 32, 0, 64])
    assert np.array_equal(weight.gather(ids), weight.dequantize()[ids])
    assert np.array_equal(weight.gather(ids, threads=2), weight.gather(ids))
    assert weight.gather(ids[:0]).shape == (0, 64)


def test_gather_rejects_rows_that_do_not_exist() -> None:
    weight = pack("Q8_0", 100, 64)
    for bad in (-1, 100):
        with pytest.raises(AssertionError, match="100 rows"):
            weight.gather(np.array([5, bad]))


def test_a_stack_is_its_parts_one_under_another() -> None:
    parts = [pack("Q4_K", 40, 256, 1), pack("Q6_K", 33, 256, 2), pack("Q4_K", 64, 256, 3)]
    stack = Weight.concat(parts)
    assert (stack.rows, stack.cols, stack.kind) == (137, 256, "Q4_K+Q6_K")
    assert stack.nbytes == sum(part.nbytes for part in parts)
    assert np.array_equal(stack.dequantize(), np.concatenate([part.dequantize() for part in parts]))
    assert np.array_equal(Weight.concat([Weight.concat(parts[:2]), parts[2]]).dequantize(), stack.dequantize())


def test_a_stack_outlives_the_matrices_it_was_made_of() -> None:
    stack = Weight.concat([pack("Q8_0", 64, 256, seed) for seed in range(4)])
    noise = [np.full(64 * 256 * 34 // 32, 7, np.uint8) for _ in range(8)]
    expected = np.concatenate([dequantized(random_raw("Q8_0", 64, 256, seed), "Q8_0") for seed in range(4)])
    assert len(noise) == 8
    np.testing.assert_array_equal(stack.dequantize(), expected)


def test_reads_a_read_only_memory_map(tmp_path: Path) -> None:
    raw = random_raw("Q5_K", 48, 512)
    raw.tofile(tmp_path / "weights")
    mapped = np.memmap(tmp_path / "weights", dtype=np.uint8, mode="r")
    weight = Weight.pack(mapped, "Q5_K", (48, 512))
    np.testing.assert_array_equal(weight.dequantize(), dequantized(raw, "Q5_K"))


def test_reads_an_array_of_any_type() -> None:
    values = np.random.default_rng(0).standard_normal((40, 9), np.float32)
    assert np.array_equal(Weight.pack(values, "F32", (40, 9)).dequantize(), values)


def test_unknown_types_are_refused() -> None:
    with pytest.raises(UnsupportedModel, match=r"IQ2_XS is not supported; possible: F32.*Q6_K"):
        Weight.pack(np.zeros(74, np.uint8), "IQ2_XS", (1, 256))


def test_widths_that_cut_a_block_are_refused() -> None:
    with pytest.raises(UnsupportedModel, match=r"576 columns, which is not a multiple of 256"):
        Weight.pack(np.zeros(324, np.uint8), "Q4_K", (1, 576))


@pytest.mark.parametrize("missing", [-1, 1])
def test_wrong_sizes_are_refused(missing: int) -> None:
    with pytest.raises(ModelFileError, match=r"2 x 64 Q8_0 matrix takes 136 bytes, but \d+ are there"):
        Weight.pack(np.zeros(136 - missing, np.uint8), "Q8_0", (2, 64))
