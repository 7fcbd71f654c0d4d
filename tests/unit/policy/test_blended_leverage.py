"""The scorer ``compactor`` against kvpress's formula in torch, and what it does where that has no say."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from kvloom.errors import ParamsError
from kvloom.policy.compression import compression_of
from kvloom.policy.compression.base import LayerContext, Measured
from kvloom.policy.compression.blended_leverage import BlendedLeverage, chunk_attention
from made_contexts import GROUP, contexts

DIM = 8


def z(x: torch.Tensor) -> torch.Tensor:
    return (x - x.mean()) / x.std().clamp_min(1e-6)


def leverage(one: LayerContext) -> torch.Tensor:
    """No sketch: of keys of few dimensions there is none."""
    k_KSD = torch.from_numpy(one.k_SKD).double().permute(1, 0, 2)
    x_KSD = k_KSD - k_KSD.mean(dim=1, keepdim=True)
    gram_KDD = x_KSD.mT @ x_KSD + 1e-2 * torch.eye(DIM, dtype=torch.double)
    return torch.einsum("ksd,kde,kse->ks", x_KSD, torch.linalg.inv(gram_KDD), x_KSD)


def attention(one: LayerContext, chunk: int) -> torch.Tensor:
    """Sums over the queries of each chunk, padded and masked as a whole."""
    assert one.measured.q_RHD is not None
    count = len(one.k_SKD)
    q_HSD = torch.from_numpy(one.measured.q_RHD).double().permute(1, 0, 2)
    k_HSD = torch.from_numpy(one.k_SKD).double().permute(1, 0, 2).repeat_interleave(GROUP, dim=0)
    chunk_of_S = torch.arange(count) // chunk
    dots_HSS = q_HSD @ k_HSD.mT
    dots_HSS[:, chunk_of_S[:, None] != chunk_of_S[None]] = -math.inf
    sums_HS = dots_HSS.softmax(dim=-1).sum(dim=1)
    means_KS = sums_HS.reshape(-1, GROUP, count).mean(dim=1)
    norms_KS = torch.from_numpy(one.v_SKD).double().norm(dim=-1).T
    return torch.nn.functional.avg_pool1d((means_KS * norms_KS)[None], kernel_size=3, padding=1, stride=1)[0]


def without_ends(one: LayerContext, sinks: int, recent: int) -> LayerContext:
    inner = slice(sinks, len(one.k_SKD) - recent)
    assert one.measured.q_RHD is not None
    seen = Measured(q_RHD=one.measured.q_RHD[inner], positions_R=one.positions_S[inner])
    return dataclasses.replace(
        one, positions_S=one.positions_S[inner], k_SKD=one.k_SKD[inner], v_SKD=one.v_SKD[inner], measured=seen
    )


@pytest.mark.parametrize("count", [40, 96 + 12, 300])
@pytest.mark.parametrize(("blend", "chunk"), [(0.35, 32), (2.0, 32), (0.0, 256)])
def test_it_is_kvpresss_formula(count: int, blend: float, chunk: int) -> None:
    (one,) = contexts(1, 3, count, DIM, seed=count)
    found_KS = BlendedLeverage(blend=blend, chunk=chunk).scores(one)
    inner = without_ends(one, 8, 4)
    wanted_KS = blend * z(leverage(inner)) + z(attention(inner, chunk))
    assert np.allclose(found_KS[:, 8:-4], wanted_KS.numpy(), atol=1e-4)
    assert np.isposinf(found_KS[:, :8]).all()
    assert np.isposinf(found_KS[:, -4:]).all()


@pytest.mark.parametrize("count", [0, 1, 8, 12, 13, 14])
def test_short_contexts_have_numbers(count: int) -> None:
    (one,) = contexts(1, 2, count, DIM)
    scores_KS = BlendedLeverage().scores(one)
    assert scores_KS.shape == (2, count)
    assert not np.isnan(scores_KS).any()
    assert np.isfinite(scores_KS).sum() == 2 * max(0, count - 12)


def test_some_queries_stand_for_all_of_a_chunk() -> None:
    """Scaled up to as many as a chunk has: with every other query the sums are about those of all."""
    rng = np.random.default_rng(0)
    k_SKD, q_RHD = rng.normal(size=(256, 1, 16)), rng.normal(size=(256, 2, 16)) / 4
    k_SKD[::16] *= 4
    places = np.arange(256)
    full_KS, half_KS = (chunk_attention(q_RHD[rows], places[rows], k_SKD, places, 64) for rows in (places, places[::2]))
    assert full_KS.sum() == pytest.approx(256)
    assert half_KS.sum() == pytest.approx(256)
    assert np.corrcoef(full_KS[0], half_KS[0])[0, 1] > 0.95


def test_the_nearest_queries_stand_for_a_chunk_without_any() -> None:
    rng = np.random.default_rng(1)
    k_SKD, q_RHD = rng.normal(size=(96, 1, 8)), rng.normal(size=(32, 1, 8))
    places = np.arange(96)
    found_KS = chunk_attention(q_RHD, places[:32], k_SKD, places, 32)
    weights_RC = np.exp(q_RHD[16:32, 0] @ k_SKD[32:64, 0].T)
    wanted_C = (weights_RC / weights_RC.sum(1, keepdims=True)).mean(0) * 32
    assert np.allclose(found_KS[0, 32:64], wanted_C)
    assert not chunk_attention(q_RHD[:0], places[:0], k_SKD, places, 32).any()


def test_in_a_window_only_queries_that_are_in_it_count() -> None:
    (late,) = contexts(1, 2, 60, DIM, seed=3, first=500)
    assert late.measured.q_RHD is not None
    more = Measured(
        q_RHD=np.concatenate([np.full((9, 2 * GROUP, DIM), 7, np.float32), late.measured.q_RHD]),
        positions_R=np.concatenate([np.arange(9), late.positions_S]),
    )
    scores_KS = BlendedLeverage().scores(dataclasses.replace(late, measured=more))
    assert np.array_equal(scores_KS, BlendedLeverage().scores(late))
    assert np.isfinite(scores_KS[:, :-4]).all()  # it holds none of the first tokens


@pytest.mark.parametrize(
    "words",
    [{"blend": -0.1}, {"chunk": 0}, {"sampled": 8}, {"sampled": 2000}, {"sinks": -1}, {"recent": -1}, {"sketch": 0}],
)
def test_words_that_make_no_sense_are_refused(words: dict) -> None:
    with pytest.raises(ParamsError) as caught:
        compression_of("compactor", 0.5, **words)
    assert caught.value.param == next(iter(words))
