"""Scores from attention against a dense softmax in float64, written as the papers and kvpress have them."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import pytest

from kvloom.policy.compression.base import Floats, LayerContext, Measured, QueryShape, Scorer
from kvloom.policy.compression.expected_attention import (
    ExpectedAttention,
    QueryStatistics,
    expected_attention,
    statistics_of,
)
from kvloom.policy.compression.h2o import H2o
from kvloom.policy.compression.laq import Laq
from kvloom.policy.compression.observed_attention import ObservedAttention
from kvloom.policy.compression.rotation import rotate
from kvloom.policy.compression.snapkv import SnapKv
from kvloom.policy.compression.tova import Tova
from made_contexts import contexts

Doubles = npt.NDArray[np.float64]


def attention(kv_heads: int, group: int, count: int, seed: int = 0) -> Doubles:
    """(query heads, queries, entries), causal."""
    rng = np.random.default_rng(seed)
    logits_HTS = 2 * rng.normal(size=(kv_heads * group, count, count))
    logits_HTS[:, ~np.tri(count, dtype=bool)] = -np.inf
    exp_HTS = np.exp(logits_HTS - logits_HTS.max(-1, keepdims=True))
    return exp_HTS / exp_HTS.sum(-1, keepdims=True)


def summed(p_HTS: Doubles, group: int, last: int | None = None) -> npt.NDArray[np.float32]:
    """What a probe by KV head gives of the last queries."""
    rows_HTS = p_HTS if last is None else p_HTS[:, -last:]
    return rows_HTS.reshape(len(rows_HTS) // group, group, *rows_HTS.shape[1:]).sum((1, 2)).astype(np.float32)


def scores(scorer: Scorer, sums_KS: Floats, group: int) -> Floats:
    nothing_SK0 = np.zeros((sums_KS.shape[1], len(sums_KS), 0), np.float32)
    places_S = np.arange(len(nothing_SK0))
    seen = QueryShape(group), Measured(attention_KS=sums_KS)
    return scorer.scores(LayerContext(0, places_S, places_S, nothing_SK0, nothing_SK0, 1, *seen))


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (1, 4)])
@pytest.mark.parametrize(("window", "kernel"), [(8, 5), (1, 1), (16, 7)])
def test_snapkv_with_mean_pooling_is_kvpresss(shape: tuple[int, int], window: int, kernel: int) -> None:
    kv_heads, group = shape
    p_HTS = attention(kv_heads, group, 40)
    mean_HS = p_HTS[:, -window:, :-window].mean(1)
    pooled_HS = np.stack([np.convolve(of_head, np.ones(kernel) / kernel, mode="full") for of_head in mean_HS])
    pooled_HS = pooled_HS[:, kernel // 2 : kernel // 2 + 40 - window]
    wanted_KS = pooled_HS.reshape(kv_heads, group, -1).mean(1)
    found_KS = scores(SnapKv(window, kernel), summed(p_HTS, group, window), group)
    assert np.allclose(found_KS[:, :-window], wanted_KS, atol=1e-6)
    assert np.isposinf(found_KS[:, -window:]).all()


def test_snapkv_with_maxima_looks_at_neighbours() -> None:
    p_HTS = attention(2, 1, 30)
    found_KS = scores(SnapKv(4, 7, "max"), summed(p_HTS, 1, 4), 1)
    mean_KS = p_HTS[:, -4:, :-4].mean(1)
    wanted = [[max(row[max(0, n - 3) : n + 4]) for n in range(26)] for row in mean_KS.tolist()]
    assert np.allclose(found_KS[:, :26], wanted, atol=1e-6)


@pytest.mark.parametrize("pool", ["mean", "max"])
def test_laq_is_snapkv_whose_window_is_what_the_model_says(pool: str) -> None:
    p_HTS = attention(4, 1, 40).reshape(2, 2, 40, 40)
    window, context = p_HTS[:, :, -8:, :32], 32
    found_KS = scores(Laq(8, 5, pool), window.sum((1, 2)).astype(np.float32), 2)
    mean_KS = window.mean((1, 2))
    edge = 0.0 if pool == "mean" else -np.inf
    padded_KS = np.concatenate([np.full((2, 2), edge), mean_KS, np.full((2, 2), edge)], axis=1)
    pooled = np.mean if pool == "mean" else np.max
    wanted_KS = np.stack([pooled(padded_KS[:, n : n + 5], axis=1) for n in range(context)], axis=1)
    assert np.allclose(found_KS, wanted_KS, atol=1e-6)


@pytest.mark.parametrize("count", [0, 1, 7, 8])
def test_a_context_no_longer_than_the_window_is_scored_as_a_whole(count: int) -> None:
    p_HTS = attention(2, 1, count) if count else np.zeros((2, 0, 0))
    found_KS = scores(SnapKv(8, 3), summed(p_HTS, 1), 1)
    assert found_KS.shape == (2, count)
    assert np.isfinite(found_KS).all()


def test_tova_is_the_last_querys_attention_for_all_heads() -> None:
    p_HTS = attention(2, 3, 25)
    found_KS = scores(Tova(), summed(p_HTS, 3, 1), 3)
    assert np.allclose(found_KS[:, :-1], p_HTS[:, -1, :-1].mean(0), atol=1e-6)
    assert np.isposinf(found_KS[:, -1]).all()


def test_sums_of_all_queries_and_their_means_over_those_that_see() -> None:
    p_HTS = attention(2, 3, 25)
    sums_KS = p_HTS.reshape(2, 3, 25, 25).sum((1, 2))
    assert np.allclose(scores(H2o(), summed(p_HTS, 3), 3), sums_KS, rtol=1e-5)
    means_KS = [[p_HTS[3 * k : 3 * k + 3, s:, s].mean() for s in range(25)] for k in range(2)]
    assert np.allclose(scores(ObservedAttention(), summed(p_HTS, 3), 3), means_KS, rtol=1e-5)


# -- expected attention --------------------------------------------------------------------------------------------

TURN_F = 100.0 ** (-np.arange(4) / 4)


def matrix(position: int) -> Doubles:
    """A rotation as kvpress writes it: cos times one, sin times a swap of halves."""
    half = len(TURN_F)
    swap = np.zeros((2 * half, 2 * half))
    swap[half:, :half], swap[:half, half:] = np.eye(half), -np.eye(half)
    cos, sin = (np.tile(each(position * TURN_F), 2)[:, None] for each in (np.cos, np.sin))
    return cos * np.eye(2 * half) + sin * swap


def test_a_rotation_is_the_matrix_of_its_position() -> None:
    x_RXD = np.random.default_rng(0).normal(size=(5, 3, 8))
    positions_R = np.array([0, 1, 7, 30, 400])
    wanted = np.stack([x_XD @ matrix(int(p)).T for x_XD, p in zip(x_RXD, positions_R, strict=True)])
    assert np.allclose(rotate(x_RXD, positions_R, TURN_F), wanted)
    wider = np.concatenate([x_RXD, x_RXD], axis=-1)
    assert np.array_equal(rotate(wider, positions_R, TURN_F)[..., 8:], x_RXD)  # what is not rotated


def test_statistics_are_those_of_queries_before_rotation_turned_onwards() -> None:
    rng = np.random.default_rng(1)
    plain_RHD = rng.normal(size=(60, 2, 8)) @ rng.normal(size=(8, 8)) + rng.normal(size=(2, 8))
    positions_R = np.arange(4, 64)
    seen = statistics_of(rotate(plain_RHD, positions_R, TURN_F), positions_R, TURN_F, 64, 16)
    turn_DD = np.mean([matrix(p) for p in range(64, 80)], axis=0)
    for head in range(2):
        q_RD = plain_RHD[:, head]
        assert np.allclose(seen.mean_HD[head], turn_DD @ q_RD.mean(0))
        assert np.allclose(seen.cov_HDD[head], turn_DD @ np.cov(q_RD.T, bias=True) @ turn_DD.T)


@pytest.mark.parametrize("shape", [(1, 1), (2, 3)])
@pytest.mark.parametrize("scale", [8**-0.5, 0.2])
def test_expected_attention_is_the_softmax_of_expected_exponentials(shape: tuple[int, int], scale: float) -> None:
    kv_heads, group = shape
    rng = np.random.default_rng(2)
    k_SKD, v_SKD = rng.normal(size=(2, 30, kv_heads, 8)).astype(np.float32)
    mean_HD, root_HDD = rng.normal(size=(kv_heads * group, 8)), 0.3 * rng.normal(size=(kv_heads * group, 8, 8))
    cov_HDD = root_HDD @ root_HDD.transpose(0, 2, 1)
    found_KS = expected_attention(QueryStatistics(mean_HD, cov_HDD), k_SKD, v_SKD, scale, epsilon=0.02)
    for head in range(kv_heads):
        shares = []
        for query in range(head * group, (head + 1) * group):
            k_SD = k_SKD[:, head].astype(np.float64)
            mean = k_SD @ mean_HD[query] * scale
            half_variance = np.array([k @ cov_HDD[query] @ k for k in k_SD]) * scale**2 / 2
            exp_S = np.exp(mean + half_variance)
            shares.append(exp_S / exp_S.sum())
        norm_S = np.sqrt((v_SKD[:, head].astype(np.float64) ** 2).sum(1))
        assert np.allclose(found_KS[head], (np.mean(shares, axis=0) + 0.02) * norm_S, rtol=1e-5)


def test_expected_exponentials_are_those_of_many_drawn_queries() -> None:
    """A check of the closed form itself, by drawing."""
    rng = np.random.default_rng(3)
    mean_D, root_DD = 0.5 * rng.normal(size=4), 0.4 * rng.normal(size=(4, 4))
    k_SKD = rng.normal(size=(6, 1, 4)).astype(np.float32)
    drawn = mean_D + rng.normal(size=(400_000, 4)) @ root_DD.T
    exp_S = np.exp(drawn @ k_SKD[:, 0].T.astype(np.float64) / 2).mean(0)
    seen = QueryStatistics(mean_D[None], (root_DD @ root_DD.T)[None])
    ones_SKD = np.full((6, 1, 1), 1, np.float32)
    assert np.allclose(expected_attention(seen, k_SKD, ones_SKD, 0.5, 0.0)[0], exp_S / exp_S.sum(), rtol=0.02)


@pytest.mark.parametrize("first", [0, 2, 500])
def test_sinks_stay_and_take_no_part_in_the_softmax(first: int) -> None:
    """As in kvpress. A window may hold some of them, or none."""
    (one,) = contexts(1, 2, 40, first=first)
    sinks = max(0, 4 - first)
    found_KS = ExpectedAttention(sinks=4).scores(one)
    assert np.isposinf(found_KS[:, :sinks]).all()
    assert one.measured.q_RHD is not None
    assert one.measured.positions_R is not None
    seen = statistics_of(one.measured.q_RHD, one.measured.positions_R, one.queries.turn_F, first + 40, 512)
    wanted_KS = expected_attention(seen, one.k_SKD[sinks:], one.v_SKD[sinks:], one.queries.scale, 0.0)
    assert np.array_equal(found_KS[:, sinks:], wanted_KS)
    without = dataclasses.replace(one, k_SKD=np.where(np.arange(40)[:, None, None] < sinks, 9, one.k_SKD))
    assert np.array_equal(ExpectedAttention(sinks=4).scores(without), found_KS)
