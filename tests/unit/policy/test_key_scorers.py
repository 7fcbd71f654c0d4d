"""Scorers that look at keys alone, against dense formulas in float64 and what their papers say of them."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import pytest

from kvloom.errors import ParamsError
from kvloom.policy.compression import compression_of
from kvloom.policy.compression.base import LayerContext, QueryShape
from kvloom.policy.compression.keydiff import KeyDiff
from kvloom.policy.compression.knorm import Knorm
from kvloom.policy.compression.leverage import Leverage, leverages
from made_contexts import contexts


def context_of(k_SKD: npt.NDArray[np.float64], layer: int = 0) -> LayerContext:
    count = len(k_SKD)
    k_SKD = k_SKD.astype(np.float32)
    return LayerContext(layer, np.arange(count), np.zeros(count, np.int64), k_SKD, k_SKD)


def rotated(k_SKD: npt.NDArray[np.float64], by_S: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Every pair of dimensions turned, halves apart, as RoPE does."""
    half = k_SKD.shape[-1] // 2
    angle_S1R = by_S[:, None, None] * 10_000.0 ** (-np.arange(half) / half)
    a, b = k_SKD[..., :half], k_SKD[..., half:]
    cos, sin = np.cos(angle_S1R), np.sin(angle_S1R)
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


@pytest.mark.parametrize(("heads", "count", "dim"), [(1, 50, 8), (3, 200, 64), (2, 1, 4)])
def test_keydiff_is_minus_the_cosine_to_the_mean_of_unit_keys(heads: int, count: int, dim: int) -> None:
    (one,) = contexts(1, heads, count, dim)
    scores_KS = KeyDiff().scores(one)
    for head in range(heads):
        k_SD = one.k_SKD[:, head].astype(np.float64)
        anchor_D = (k_SD / np.sqrt((k_SD**2).sum(1))[:, None]).mean(0)
        cosine_S = k_SD @ anchor_D / (np.sqrt((k_SD**2).sum(1)) * np.sqrt((anchor_D**2).sum()))
        assert np.allclose(scores_KS[head], -cosine_S, atol=1e-6)
    assert scores_KS.dtype == np.float32


def test_keydiff_sees_directions_and_not_lengths() -> None:
    (one,) = contexts(1, 2, 60)
    k_SKD = one.k_SKD.astype(np.float64)
    lengths = np.random.default_rng(1).uniform(0.1, 10, (60, 2, 1))
    plain = KeyDiff().scores(context_of(k_SKD))
    assert np.allclose(KeyDiff().scores(context_of(k_SKD * lengths)), plain, atol=1e-5)
    everywhere = np.full(60, 3.0)  # one turn of all keys; turns by position change directions
    assert np.allclose(KeyDiff().scores(context_of(rotated(k_SKD, everywhere))), plain, atol=1e-5)
    assert not np.allclose(KeyDiff().scores(context_of(rotated(k_SKD, np.arange(60.0)))), plain, atol=0.1)


def test_keydiff_keeps_the_odd_one_out() -> None:
    k_SKD = np.tile([1.0, 0.0, 0.0, 0.0], (9, 1, 1)) + np.random.default_rng(0).normal(0, 0.01, (9, 1, 4))
    k_SKD[5] = [0.0, 1.0, 0.0, 0.0]
    assert int(np.argmax(KeyDiff().scores(context_of(k_SKD)))) == 5


@pytest.mark.parametrize(
    "k_SKD", [np.zeros((5, 2, 4)), np.stack([np.ones((2, 4)), -np.ones((2, 4)), np.zeros((2, 4))])]
)
def test_keys_without_a_direction_have_no_cosine(k_SKD: npt.NDArray[np.float64]) -> None:
    assert np.isfinite(KeyDiff().scores(context_of(k_SKD))).all()
    assert (KeyDiff().scores(context_of(k_SKD))[:, -1] == 0).all()


def test_a_turn_by_position_changes_no_norm() -> None:
    (one,) = contexts(1, 2, 60)
    turned = context_of(rotated(one.k_SKD.astype(np.float64), np.arange(60.0)))
    assert np.allclose(Knorm().scores(one), Knorm().scores(turned), atol=1e-5)


# -- leverage ------------------------------------------------------------------------------------------------------


def test_leverage_is_that_of_keys_before_rotation() -> None:
    (one,) = contexts(1, 3, 90, 16)
    turned = context_of(rotated(one.k_SKD.astype(np.float64), np.arange(90.0)))
    shape = QueryShape(turn_F=10_000.0 ** (-np.arange(8) / 8))
    found = Leverage().scores(dataclasses.replace(turned, queries=shape))
    assert np.allclose(found, Leverage().scores(one), atol=1e-5)
    assert not np.allclose(found, Leverage().scores(turned), atol=1e-2)


def test_leverage_is_the_diagonal_of_the_hat_matrix() -> None:
    (one,) = contexts(1, 3, 120, 16)
    scores_KS = Leverage(sketch=16).scores(one)
    for head in range(3):
        x_SD = one.k_SKD[:, head].astype(np.float64)
        x_SD = x_SD - x_SD.mean(0)
        u_SD = np.linalg.svd(x_SD, full_matrices=False)[
            0
        ]  # without the ridge: the squared rows of an orthonormal basis
        assert np.allclose(scores_KS[head], (u_SD**2).sum(1), atol=1e-3)


def test_leverages_of_a_head_add_up_to_its_dimensions_and_turn_with_it() -> None:
    x_KSD = np.random.default_rng(0).normal(size=(2, 300, 12))
    found_KS = leverages(x_KSD)
    assert np.allclose(found_KS.sum(1), 12, atol=0.01)
    basis = np.linalg.qr(np.random.default_rng(1).normal(size=(12, 12)))[0]
    assert np.allclose(leverages(x_KSD @ basis), found_KS, atol=1e-9)
    assert found_KS.min() >= 0
    assert found_KS.max() <= 1


def test_a_key_alone_in_its_direction_has_all_the_leverage() -> None:
    x_KSD = np.zeros((1, 40, 4))
    x_KSD[0, :, 0] = np.random.default_rng(0).normal(size=40)
    x_KSD[0, 7] = [0, 30, 0, 0]
    found_S = leverages(x_KSD)[0]
    assert found_S[7] == pytest.approx(1, abs=1e-3)
    assert np.delete(found_S, 7).max() < 0.5


def test_a_sketch_is_near_and_the_same_every_time() -> None:
    (one,) = contexts(1, 2, 400, 64)
    k_SKD = one.k_SKD.astype(np.float64) * np.where(np.arange(400) % 50, 1.0, 6.0)[:, None, None]
    exact = Leverage(sketch=64).scores(context_of(k_SKD))
    sketched = Leverage(sketch=48).scores(context_of(k_SKD))
    assert np.array_equal(sketched, Leverage(sketch=48).scores(context_of(k_SKD)))
    assert not np.array_equal(sketched, Leverage(sketch=48, seed=1).scores(context_of(k_SKD)))
    assert not np.array_equal(sketched, Leverage(sketch=48).scores(context_of(k_SKD, layer=1)))
    for head in range(2):
        best = [set(np.argsort(-scores_KS[head])[:8].tolist()) for scores_KS in (exact, sketched)]
        assert best[0] == best[1] == set(range(0, 400, 50))


def test_what_is_no_sketch_is_refused() -> None:
    for words in ({"sketch": 0}, {"seed": -1}):
        with pytest.raises(ParamsError) as caught:
            compression_of("leverage", 0.5, **words)
        assert caught.value.param == next(iter(words))


@pytest.mark.parametrize("name", ["knorm", "keydiff", "leverage"])
def test_keys_of_float16s_range_give_numbers(name: str) -> None:
    (one,) = contexts(1, 2, 30)
    for factor in (1e-7, 6e4):
        scores_KS = compression_of(name, 0.5).scorer.scores(context_of(one.k_SKD.astype(np.float64) * factor))
        assert np.isfinite(scores_KS).all()
        assert len(np.unique(scores_KS)) > 1
