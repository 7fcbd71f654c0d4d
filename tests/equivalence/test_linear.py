"""The matrix product: right, and with the same bits whatever the company, threads and instruction set."""

from __future__ import annotations

import ctypes
import ctypes.util

import pytest
import torch
from ggml_blocks import KINDS, block_cols, random_raw

import in_torch as ops
from kvloom.kernels import isas
from kvloom.model import reference_ops
from kvloom.model.weight import Weight

ISAS = isas()


def pack(kind: str, rows: int, cols: int, seed: int = 0) -> Weight:
    return Weight.pack(random_raw(kind, rows, cols, seed), kind, (rows, cols))


def random_x(rows: int, cols: int) -> torch.Tensor:
    return torch.randn(rows, cols, generator=torch.Generator().manual_seed(rows))


def assert_close(y_RO: torch.Tensor, x_RC: torch.Tensor, weight: Weight, bias_O: torch.Tensor | None) -> None:
    """Within the worst that rounding can do to a chain of that length."""
    w_OC = ops.dequantized(weight).double()
    exact = torch.nn.functional.linear(x_RC.double(), w_OC, None if bias_O is None else bias_O.double())
    size = x_RC.double().abs() @ w_OC.abs().T + (0 if bias_O is None else bias_O.abs())
    assert bool(((y_RO - exact).abs() <= (weight.cols + 2) * 2.0**-24 * size).all())


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", KINDS)
def test_close_to_the_exact_product(kind: str, isa: str) -> None:
    for outputs, blocks, rows in [(1, 1, 1), (33, 2, 3), (70, 3, 17), (32, 5, 9)]:
        cols = blocks * (37 if block_cols(kind) == 1 else block_cols(kind))
        weight, x_RC, bias_O = pack(kind, outputs, cols), random_x(rows, cols), torch.randn(outputs)
        assert_close(ops.linear(x_RC, weight, None, 2, isa=isa), x_RC, weight, None)
        assert_close(ops.linear(x_RC, weight, bias_O, 2, isa=isa), x_RC, weight, bias_O)
        torch.testing.assert_close(
            ops.linear(x_RC, weight, bias_O, 1, isa=isa),
            reference_ops.linear(x_RC, weight, bias_O, 1),
            atol=1e-2,
            rtol=1e-4,
        )


@pytest.mark.parametrize("kind", KINDS)
def test_bits_depend_on_the_row_only(kind: str) -> None:
    """For every number of rows, thread count and instruction set; 512 columns are two blocks of it."""
    weight, x_RC, bias_O = pack(kind, 70, 512), random_x(64, 512), torch.randn(70)
    alone = torch.cat([ops.linear(x_RC[r : r + 1], weight, bias_O, 1) for r in range(64)])
    for isa in ISAS:
        for rows in range(1, 65) if isa != "portable" else (1, 2, 3, 17):
            together = ops.linear(x_RC[:rows], weight, bias_O, 1 + rows % 2, isa=isa)
            assert torch.equal(together, alone[:rows]), (isa, rows)


@pytest.mark.parametrize("isa", ISAS)
def test_bits_across_blocks_of_rows_columns_and_outputs(isa: str) -> None:
    weight, x_RC = pack("Q4_1", 290, 800), random_x(485, 800)
    alone = ops.linear(x_RC[239:244].clone(), weight, None, 1, isa=isa)
    for threads in (1, 2, 3):
        assert torch.equal(ops.linear(x_RC, weight, None, threads, isa=isa)[239:244], alone)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("rows", [1, 13])
def test_the_order_of_arithmetic_is_the_documented_one(isa: str, rows: int) -> None:
    fmaf = ctypes.CDLL(ctypes.util.find_library("m")).fmaf
    fmaf.argtypes, fmaf.restype = [ctypes.c_float] * 3, ctypes.c_float
    weight, x_RC, bias_O = pack("F32", 5, 300), random_x(rows, 300), torch.randn(5)
    y_RO, w_OC = ops.linear(x_RC, weight, bias_O, 1, isa=isa), ops.dequantized(weight)
    for r in (0, rows - 1):
        for o in range(5):
            total = float(bias_O[o])
            for x, w in zip(x_RC[r].tolist(), w_OC[o].tolist(), strict=True):
                total = fmaf(x, w, total)
            assert total == float(y_RO[r, o])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("rows", [1, 8, 9, 250])
def test_a_stack_gives_the_bits_of_its_parts(isa: str, rows: int) -> None:
    parts = [pack("Q4_K", 40, 256, 1), pack("Q6_K", 33, 256, 2), pack("F16", 64, 256, 3)]
    x_RC, bias_O = random_x(rows, 256), torch.randn(137)
    biases = bias_O[:40], bias_O[40:73], bias_O[73:]
    expected = [ops.linear(x_RC, part, bias, 1, isa=isa) for part, bias in zip(parts, biases, strict=True)]
    for threads in (1, 2):
        assert torch.equal(ops.linear(x_RC, Weight.concat(parts), bias_O, threads, isa=isa), torch.cat(expected, 1))


@pytest.mark.parametrize("isa", ISAS)
def test_what_is_not_finite_stays_in_its_place(isa: str) -> None:
    """Padding rows meet infinities too, and must not leak into outputs."""
    weight = pack("Q8_0", 33, 64)
    for rows in (1, 9):
        x_RC = random_x(rows, 64)
        x_RC[0, 5] = torch.inf
        y_RO = ops.linear(x_RC, weight, None, 1, isa=isa)
        assert not bool(y_RO[0].isfinite().any())
        assert bool(y_RO[1:].isfinite().all())


def test_no_rows_give_no_rows() -> None:
    assert ops.linear(torch.empty(0, 64), pack("Q8_0", 33, 64), None, 2).shape == (0, 33)


def test_mistaken_shapes_are_caught() -> None:
    weight = pack("Q8_0", 33, 64)
    with pytest.raises(AssertionError, match="32 features meet a matrix of 64 columns"):
        ops.linear(torch.zeros(2, 32), weight, None, 1)
    with pytest.raises(AssertionError, match="vector of 33"):
        ops.linear(torch.zeros(2, 64), weight, torch.zeros(32), 1)
    with pytest.raises(AssertionError, match="contiguous float32"):
        ops.linear(torch.zeros(64, 2).T, weight, None, 1)
