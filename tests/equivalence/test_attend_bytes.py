"""Attention over bytes: scores are exact, weights are rounded as promised, and nothing else is."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings

from attend_cases import Case, World
from in_torch import CpuAttend, met_queries, rounded_keys
from kvloom.codec import INT8
from kvloom.kernels import isas

BLOCK = 256  # positions whose weights share a step
Doubles = npt.NDArray[np.float64]


def world_of(length: int, **shape: int) -> World:
    """One sequence, whose last position asks."""
    return World.of(Case(lengths=(length,), rows=((length - 1,),), codec="int8", **shape))


def attended(world: World, isa: str | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    cpu = CpuAttend(world.pool.memory, threads=1, isa=isa)
    world.fill_cached(cpu)
    return world.step(cpu)


def stored_values(world: World, head: int) -> tuple[Doubles, Doubles]:
    """Bytes (S, D) and steps (S, 1) of one head's values."""
    x_SD = world.v[0][:, head].numpy()
    bytes_SD, steps_S1 = INT8.values.pack(x_SD)
    return bytes_SD.astype(np.float64), steps_S1.astype(np.float64)


def final_weights(world: World, head: int) -> Doubles:
    """Probabilities of the last position's query heads (H, S) in double, from stored keys."""
    case = world.case
    group = case.heads // case.kv_heads
    q = met_queries(world.format, world.q[0])[-1, head * group : (head + 1) * group].double()
    k = rounded_keys(world.format, world.k[0])[:, head].double()
    weights: Doubles = torch.softmax(q @ k.T * case.scale, dim=-1).numpy()
    return weights


@settings(max_examples=20, deadline=None)
@given(
    length=st.integers(1, 700),
    group=st.sampled_from([1, 2, 3, 4, 7]),
    spread=st.sampled_from([0.1, 1.0, 5.0]),
    seed=st.integers(0, 1000),
)
def test_a_weight_is_off_by_half_a_step_at_most(length: int, group: int, spread: float, seed: int) -> None:
    """The step is a 32767th of the greatest product of a weight and a value's step, within its block of KV."""
    world = world_of(length, heads=2 * group, kv_heads=2, v_dim=48, seed=seed)
    world.q[0] *= spread
    world.v[0] *= torch.exp2(torch.randint(-4, 5, (length, 2, 1)).float())
    out_THD, lse_TH = attended(world)
    wanted_THD, wanted_TH = world.oracle()
    torch.testing.assert_close(lse_TH.double(), wanted_TH, rtol=0, atol=1e-5)
    for head in range(2):
        bytes_SD, steps_S1 = stored_values(world, head)
        products_HS = final_weights(world, head) * steps_S1.T
        off_HD = sum(
            products_HS[:, at : at + BLOCK].max(axis=1, keepdims=True)
            / 32767
            / 2
            * np.abs(bytes_SD[at : at + BLOCK]).sum(axis=0)
            for at in range(0, length, BLOCK)
        )
        error_HD = (out_THD[0].double() - wanted_THD[0])[head * group : (head + 1) * group].abs().numpy()
        noise = 1e-5 * (1 + spread) * (products_HS @ np.abs(bytes_SD)).max()
        assert (error_HD <= off_HD + noise).all(), (error_HD / off_HD).max()


@pytest.mark.parametrize("isa", isas())
def test_weights_that_are_alike_lose_nothing(isa: str) -> None:
    """Equal keys, and values with equal steps: every weight is the greatest."""
    world = world_of(512, heads=6, kv_heads=2, v_dim=80)
    world.k[0][:] = world.k[0][0]
    world.v[0][:, :, 0] = 8.0
    out_THD, _ = attended(world, isa)
    for head in range(2):
        bytes_SD, steps_S1 = stored_values(world, head)
        wanted_D = (bytes_SD * steps_S1).mean(axis=0)
        np.testing.assert_allclose(out_THD[0, 3 * head : 3 * head + 3], [wanted_D] * 3, rtol=0, atol=2e-6)


@pytest.mark.parametrize("isa", isas())
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("number", [32639, 32640, 32763])
def test_a_query_of_one_large_component_meets_its_keys(number: int, sign: int, isa: str) -> None:
    """With 32640 steps or more, two signed bytes do not hold it."""
    world = world_of(40, heads=2, kv_heads=1, v_dim=16)
    world.q[0][:] = 0.25 * torch.randn(world.q[0].shape)
    world.q[0][:, :, 5] = sign * number
    world.k[0] *= 1e-4
    numbers = met_queries(world.format, world.q[0])[-1]
    assert bool((numbers[:, 5] == sign * number).all())
    assert bool((numbers == numbers.round()).all()), "a step is 1"
    _, lse_TH = attended(world, isa)
    torch.testing.assert_close(lse_TH.double(), world.oracle()[1], rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("isa", isas())
@pytest.mark.parametrize("odd", [torch.nan, torch.inf])
@pytest.mark.parametrize("place", [0, 37, 299])
def test_a_value_that_is_no_number_shows(place: int, odd: float, isa: str) -> None:
    world = world_of(300, heads=3, kv_heads=1)
    world.v[0][place, 0, 7] = odd
    out_THD, lse_TH = attended(world, isa)
    assert not bool(out_THD.isfinite().any())
    assert bool(lse_TH.isfinite().all())


@pytest.mark.parametrize("isa", isas())
def test_values_of_nothing_and_of_little(isa: str) -> None:
    world = world_of(300, heads=3, kv_heads=1)
    world.v[0][:] = 0.0
    assert not bool(attended(world, isa)[0].any())
    world.v[0][:] = 2.0**-110
    out_THD, _ = attended(world, isa)
    torch.testing.assert_close(out_THD / 2.0**-106, torch.zeros_like(out_THD), rtol=0, atol=0.5)
