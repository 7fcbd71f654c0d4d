"""The fused operators: near torch in float64, with bits that depend on nothing but their row."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import in_torch as ops
from kvloom.kernels import isas
from kvloom.model import reference_ops
from kvloom.model.ops import argmax

ISAS = isas()
WIDTHS = (1, 15, 16, 64, 100, 576)
EPS = 1e-5


def random(*shape: int, scale: float = 1.0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(math.prod(shape))) * scale


def angles(positions: int, half: int) -> tuple[torch.Tensor, torch.Tensor]:
    turns = torch.arange(positions)[:, None] * 10000.0 ** -(torch.arange(half) / half)
    return turns.cos().contiguous(), turns.sin().contiguous()


def assert_relative(got: torch.Tensor, exact: torch.Tensor, tiny: float = 1e-30) -> None:
    assert bool(((got - exact).abs() <= 2e-6 * exact.abs() + tiny).all())


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("width", WIDTHS)
def test_rms_norm(width: int, isa: str) -> None:
    x_RC, weight_C = random(37, width, scale=3.0), random(width)
    exact = reference_ops.rms_norm(x_RC.double(), weight_C.double(), EPS, 1)
    assert_relative(ops.rms_norm(x_RC, weight_C, EPS, 2, isa=isa), exact)


@pytest.mark.parametrize("isa", ISAS)
def test_rms_norm_of_a_zero_row_is_zero(isa: str) -> None:
    assert torch.equal(ops.rms_norm(torch.zeros(2, 64), torch.ones(64), EPS, 1, isa=isa), torch.zeros(2, 64))


@pytest.mark.parametrize("isa", ISAS)
def test_rms_norm_of_heads_inside_a_wider_tensor(isa: str) -> None:
    qkv_TC, weight_D = random(5, 7 * 64), random(64)
    heads = qkv_TC.view(5, 7, 64)[:, 2:5]
    before = qkv_TC.clone()
    normed = ops.rms_norm(heads, weight_D, EPS, 1, isa=isa)
    flat = ops.rms_norm(heads.reshape(15, 64), weight_D, EPS, 1, isa=isa)
    assert torch.equal(normed, flat.view(5, 3, 64))
    assert torch.equal(qkv_TC, before)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("width", WIDTHS)
def test_add_rms_norm_adds_in_place_and_normalizes_the_sum(width: int, isa: str) -> None:
    x_RC, delta_RC, weight_C = random(37, width), random(37, width, scale=2.0), random(width)
    total = x_RC + delta_RC
    normed = ops.add_rms_norm(x_RC, delta_RC, weight_C, EPS, 2, isa=isa)
    assert torch.equal(x_RC, total)
    assert torch.equal(normed, ops.rms_norm(total, weight_C, EPS, 1, isa=isa))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("dim", "half"), [(64, 32), (64, 16), (20, 10), (2, 1)])
def test_rope_equals_torch_bit_for_bit(dim: int, half: int, isa: str) -> None:
    qkv_TC, positions_T = random(40, 5 * dim), torch.randint(0, 500, (40,), dtype=torch.int32)
    cos_PD, sin_PD = angles(500, half)
    expected = qkv_TC.clone()
    reference_ops.rope(expected.view(40, 5, dim)[:, 1:4], positions_T, cos_PD, sin_PD, 1)
    ops.rope(qkv_TC.view(40, 5, dim)[:, 1:4], positions_T, cos_PD, sin_PD, 2, isa=isa)
    assert torch.equal(qkv_TC, expected)


@pytest.mark.parametrize("isa", ISAS)
def test_rope_keeps_lengths_and_only_relative_angles_matter(isa: str) -> None:
    cos_PD, sin_PD = angles(300, 32)
    a, b = (
        random(1, 1, 64).expand(250, 1, 64).clone(),
        random(1, 2, 32).view(1, 1, 64).expand(250, 1, 64).clone(),
    )
    lengths, at = a.square().sum(-1), torch.arange(250, dtype=torch.int32)
    ops.rope(a, at, cos_PD, sin_PD, 1, isa=isa)
    ops.rope(b, at + 17, cos_PD, sin_PD, 1, isa=isa)
    torch.testing.assert_close(a.square().sum(-1), lengths)
    scores = (a * b).sum(-1).flatten()
    torch.testing.assert_close(scores, scores[0].expand(250), atol=1e-4, rtol=0)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("width", WIDTHS)
def test_silu_mul(width: int, isa: str) -> None:
    gate_up_RF = random(37, 2 * width, scale=8.0)
    assert_relative(ops.silu_mul(gate_up_RF, 2, isa=isa), reference_ops.silu_mul(gate_up_RF.double(), 1))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("width", WIDTHS)
def test_gelu_tanh_mul(width: int, isa: str) -> None:
    """Where gelu has decayed to nothing its exponent amplifies rounding: there the error is absolute."""
    gate_up_RF = random(37, 2 * width, scale=3.0)
    exact = reference_ops.gelu_tanh_mul(gate_up_RF.double(), 1)
    assert_relative(ops.gelu_tanh_mul(gate_up_RF, 2, isa=isa), exact, tiny=2e-7)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("gated", [ops.silu_mul, ops.gelu_tanh_mul])
def test_gates_far_from_zero(gated: Callable[..., torch.Tensor], isa: str) -> None:
    gates = torch.tensor([-1e30, -1e4, -200.0, -0.0, 0.0, 100.0, 1e4, 1e30, torch.nan])
    got = gated(torch.cat([gates, torch.ones(9)]).view(1, 18), 1, isa=isa)[0]
    torch.testing.assert_close(got, torch.relu(gates), atol=1e-7, rtol=1e-6, equal_nan=True)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("isa", ISAS)
def test_bits_depend_on_the_row_only(isa: str, threads: int) -> None:
    x_RC, delta_RC, weight_C = random(300, 200), random(300, 200, scale=0.5), random(200)
    wide = ISAS[0]
    for rows in (1, 3, 300):
        part = x_RC[:rows].clone()
        full, summed = x_RC.clone(), x_RC[:rows].clone()
        expected = ops.add_rms_norm(full, delta_RC, weight_C, EPS, 1, isa=wide)[:rows]
        assert torch.equal(ops.add_rms_norm(summed, delta_RC[:rows], weight_C, EPS, threads, isa=isa), expected)
        for gated in (ops.silu_mul, ops.gelu_tanh_mul):
            assert torch.equal(gated(part, threads, isa=isa), gated(x_RC, 1, isa=wide)[:rows])


def test_operators_take_no_rows() -> None:
    assert ops.rms_norm(torch.empty(0, 64), torch.ones(64), EPS, 2).shape == (0, 64)
    assert ops.silu_mul(torch.empty(0, 64), 2).shape == (0, 32)
    ops.rope(torch.empty(0, 2, 64), torch.empty(0, dtype=torch.int32), *angles(4, 32), 2)


def test_mistaken_shapes_are_caught() -> None:
    with pytest.raises(AssertionError, match="vector of 64"):
        ops.rms_norm(torch.zeros(2, 64), torch.ones(32), EPS, 1)
    with pytest.raises(AssertionError, match="7 features"):
        ops.silu_mul(torch.zeros(2, 7), 1)
    with pytest.raises(AssertionError, match="128 features to rotate, but heads have 64"):
        ops.rope(torch.zeros(1, 1, 64), torch.zeros(1, dtype=torch.int32), *angles(4, 64), 1)


@pytest.mark.parametrize("bad", [-1, 4])
def test_positions_outside_of_the_tables_are_caught(bad: int) -> None:
    with pytest.raises(AssertionError, match="outside of tables of 4"):
        ops.rope(torch.zeros(2, 1, 64), torch.tensor([0, bad], dtype=torch.int32), *angles(4, 32), 1)


@pytest.mark.parametrize("isa", ISAS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_argmax_is_the_first_of_the_largest_as_numpy_finds_it(isa: str, data: st.DataObject) -> None:
    """Few different values, so that ties are common; infinities and NaN in places."""
    width = data.draw(st.sampled_from([1, 15, 16, 1023, 1024, 1040, 3072, 4099]))
    seed = data.draw(st.integers(0, 1000))
    x_RV = np.random.default_rng(seed).integers(-3, 4, (5, width)).astype(np.float32)
    for value in data.draw(st.lists(st.sampled_from([math.inf, -math.inf, math.nan, 9.0, -0.0]), max_size=4)):
        x_RV[data.draw(st.integers(0, 4)), data.draw(st.integers(0, width - 1))] = value
    assert argmax(x_RV, 2, isa=isa).tolist() == x_RV.argmax(axis=1).tolist()
