"""Rounded activations: what the reference says, in the documented order, with a row's bits depending on it alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ggml_blocks import HALVES, KINDS, block_cols, random_raw
from hypothesis import given, settings
from hypothesis import strategies as st

import in_torch as ops
from kvloom.kernels import choose_isa, isas
from kvloom.model import reference_ops
from kvloom.model.ops import Precision
from kvloom.model.weight import Weight

ISAS = isas()
ROUNDED: tuple[Precision, ...] = ("int8", "int16")


def pack(kind: str, rows: int, cols: int, seed: int = 0) -> Weight:
    return Weight.pack(random_raw(kind, rows, cols, seed), kind, (rows, cols))


def random_x(rows: int, cols: int, seed: int = 0) -> torch.Tensor:
    """Values whose groups differ in size by orders of magnitude."""
    generator = torch.Generator().manual_seed(seed)
    sizes = 10.0 ** torch.empty(rows, cols // 32, 1).uniform_(-4, 3, generator=generator)
    return (torch.randn(rows, cols // 32, 32, generator=generator) * sizes).flatten(1)


@settings(deadline=None, max_examples=60)
@given(
    kind=st.sampled_from(KINDS),
    isa=st.sampled_from(ISAS),
    activations=st.sampled_from(ROUNDED),
    rows=st.integers(1, 40),
    outputs=st.integers(1, 70),
    blocks=st.integers(1, 3),
    seed=st.integers(0, 2**16),
)
def test_close_to_the_reference(
    kind: str, isa: str, activations: Precision, rows: int, outputs: int, blocks: int, seed: int
) -> None:
    weight = pack(kind, outputs, blocks * max(32, block_cols(kind)), seed)
    x_RC, bias_O = random_x(rows, weight.cols, seed), torch.randn(outputs)
    ours = ops.linear(x_RC, weight, bias_O, 2, activations, isa=isa)
    theirs = reference_ops.linear(x_RC, weight, bias_O, 1, activations)
    largest_OC = ops.dequantized(weight).abs().unflatten(1, (-1, 16)).amax(-1).repeat_interleave(16, dim=1)
    size_RO = x_RC.abs() @ largest_OC.T + bias_O.abs()
    # The second plane is of what the first left, which the reference rounds once more.
    tolerance = {"int8": 1e-5, "int16": 1e-4}[activations]
    assert bool(((ours - theirs).abs() <= tolerance * size_RO).all())


@pytest.mark.parametrize("activations", ROUNDED)
@pytest.mark.parametrize("kind", KINDS)
def test_bits_depend_on_the_row_only(kind: str, activations: Precision) -> None:
    """For every number of rows, thread count and instruction set."""
    weight, x_RC, bias_O = pack(kind, 70, 768), random_x(40, 768), torch.randn(70)
    alone = torch.cat([ops.linear(x_RC[r : r + 1], weight, bias_O, 1, activations) for r in range(40)])
    for isa in ISAS:
        for rows in (*range(1, 15), 25, 40):
            together = ops.linear(x_RC[:rows], weight, bias_O, 1 + rows % 2, activations, isa=isa)
            assert torch.equal(together, alone[:rows]), (isa, rows)


@pytest.mark.parametrize("activations", ROUNDED)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if block_cols(kind) > 1])
def test_bits_of_many_rows(kind: str, activations: Precision) -> None:
    """Tiles that are full and not, and a last step of columns that is not full either; every sixth row is compared."""
    cols = 544 if block_cols(kind) == 32 else 512
    weight, x_RC, bias_O = pack(kind, 40, cols), random_x(258, cols), torch.randn(40)
    alone = torch.cat([ops.linear(x_RC[r : r + 1], weight, bias_O, 1, activations) for r in range(0, 258, 6)])
    for isa in ISAS:
        for rows in (16, 17, 31, 48, 241, 258) if isa != "portable" else (17,):
            together = ops.linear(x_RC[:rows], weight, bias_O, 1 + rows % 2, activations, isa=isa)
            assert torch.equal(together[::6], alone[: -(-rows // 6)]), (isa, rows)


@pytest.mark.parametrize("activations", ROUNDED)
def test_the_environment_names_the_instruction_set(activations: Precision, monkeypatch: pytest.MonkeyPatch) -> None:
    """AMX is off wherever another one is named."""
    weight, x_RC = pack("Q4_K", 70, 512), random_x(37, 512)
    wanted = ops.linear(x_RC, weight, None, 2, activations, isa="portable")
    for isa in ISAS:
        monkeypatch.setenv("KVLOOM_ISA", isa)
        assert choose_isa() == isa
        assert torch.equal(ops.linear(x_RC, weight, None, 2, activations), wanted), isa


@pytest.mark.parametrize("isa", ISAS)
def test_bits_across_blocks_of_rows_columns_and_outputs(isa: str) -> None:
    weight, x_RC = pack("Q4_1", 290, 1056), random_x(485, 1056)
    alone = ops.linear(x_RC[237:247].clone(), weight, None, 1, "int8", isa=isa)
    for threads in (1, 2, 3):
        assert torch.equal(ops.linear(x_RC, weight, None, threads, "int8", isa=isa)[237:247], alone)


def fused(a: float, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """a b + c, rounded once: the product of two floats is exact in double."""
    return (np.float64(a) * b.astype(np.float64) + c.astype(np.float64)).astype(np.float32)


@pytest.mark.parametrize("activations", ROUNDED)
@pytest.mark.parametrize("isa", ISAS)
def test_the_order_of_arithmetic_is_the_documented_one(isa: str, activations: Precision) -> None:
    """On Q4_1, which has everything: per group first the product of codes, then the minimum; plane after plane."""
    cols, outputs = 96, 5
    raw, x_C, bias_O = random_raw("Q4_1", outputs, cols, 3), random_x(1, cols)[0], torch.randn(outputs)
    blocks = raw.reshape(outputs, cols // 32, 20)
    d_OG, m_OG = (blocks[:, :, at : at + 2].copy().view(np.float16)[..., 0].astype(np.float32) for at in (0, 2))
    nibbles = blocks[:, :, 4:]
    codes_OGC = np.concatenate([nibbles & 15, nibbles >> 4], axis=2).astype(np.int64)
    y_O = bias_O.numpy().copy()
    for g in range(cols // 32):
        rest_C = x_C.numpy()[32 * g : 32 * g + 32]
        for _ in range({"int8": 1, "int16": 2}[activations]):
            most = np.abs(rest_C).max()
            scale = most / np.float32(127)
            q_C = np.round(rest_C * (np.float32(127) / most)).astype(np.int64)
            dot_O = (codes_OGC[:, g] @ q_C).astype(np.float32)
            y_O = (dot_O.astype(np.float64) * (scale * d_OG[:, g]) + y_O).astype(np.float32)
            y_O = fused(scale * np.float32(q_C.sum()), m_OG[:, g], y_O)
            rest_C = fused(-scale, q_C.astype(np.float32), rest_C)
    weight = Weight.pack(raw, "Q4_1", (outputs, cols))
    assert ops.linear(x_C[None], weight, bias_O, 1, activations, isa=isa)[0].tolist() == y_O.tolist()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("rows", [1, 9, 250])
def test_a_stack_gives_the_bits_of_its_parts(isa: str, rows: int) -> None:
    """One of plain floats among them, which meets x as it is."""
    parts = [pack("Q4_K", 40, 256, 1), pack("Q6_K", 33, 256, 2), pack("F16", 64, 256, 3)]
    x_RC = random_x(rows, 256)
    expected = [ops.linear(x_RC, part, None, 1, "int8", isa=isa) for part in parts[:2]]
    expected.append(ops.linear(x_RC, parts[2], None, 1, "float32", isa=isa))
    for threads in (1, 2):
        together = ops.linear(x_RC, Weight.concat(parts), None, threads, "int8", isa=isa)
        assert torch.equal(together, torch.cat(expected, 1))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("activations", ROUNDED)
def test_the_largest_codes_do_not_overflow(isa: str, activations: Precision) -> None:
    """All codes at their ends and all of x at one size: sums of 16 bits would show it."""
    for kind, code in [("Q8_0", 128), ("Q8_0", 127), ("Q4_1", 255), ("Q5_1", 255), ("Q6_K", 255), ("Q6_K", 0)]:
        raw = np.full_like(random_raw(kind, 32, 256), code)
        for at in HALVES[kind]:
            for block in range(0, raw.shape[1], raw.shape[1] * block_cols(kind) // 256):
                raw[:, block + at : block + at + 2] = np.array([1.0], np.float16).view(np.uint8)
        weight = Weight.pack(raw, kind, (32, 256))
        for sign in (1.0, -1.0):
            x_RC = torch.full((13, 256), 127.0 * sign)
            ours = ops.linear(x_RC, weight, None, 1, activations, isa=isa)
            assert torch.equal(ours.double(), x_RC.double() @ ops.dequantized(weight).double().T), (kind, code)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("bad", [torch.inf, -torch.inf, torch.nan])
def test_what_is_not_finite_stays_in_its_row(isa: str, bad: float) -> None:
    weight = pack("Q8_0", 33, 64)
    for rows in (2, 9, 40):
        x_RC = random_x(rows, 64)
        x_RC[0, 5] = bad
        y_RO = ops.linear(x_RC, weight, None, 1, "int8", isa=isa)
        assert not bool(y_RO[0].isfinite().any())
        assert bool(y_RO[1:].isfinite().all())


@pytest.mark.parametrize("rows", [3, 9, 40])
@pytest.mark.parametrize("isa", ISAS)
def test_zeros_and_the_smallest_numbers_give_zeros(isa: str, rows: int) -> None:
    weight = pack("Q4_0", 33, 64)
    for value in (0.0, 1e-40, -1e-31):
        y_RO = ops.linear(torch.full((rows, 64), value), weight, None, 1, "int8", isa=isa)
        assert torch.equal(y_RO, torch.zeros(rows, 33))


def test_two_planes_are_much_closer_than_one() -> None:
    weight, x_RC = pack("Q8_0", 64, 512), torch.randn(8, 512)
    exact = ops.linear(x_RC, weight, None, 1)
    errors = [float((ops.linear(x_RC, weight, None, 1, each) - exact).norm() / exact.norm()) for each in ROUNDED]
    assert 1e-3 < errors[0] < 2e-2
    assert errors[1] < errors[0] / 50
