"""Compactors: what is stored weighs, and says, what was there, against a softmax in float64."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import pytest

from kvloom.errors import ParamsError
from kvloom.policy.compression import METHODS, compression_of
from kvloom.policy.compression.base import Entries, Floats, LayerContext, Measured, QueryShape
from kvloom.policy.compression.compactors import COMPACTORS
from kvloom.policy.compression.keepkv import KeepKv
from kvloom.policy.compression.matching import Matching
from made_contexts import candidates, contexts

Doubles = npt.NDArray[np.float64]
SCALE = 0.35


def context_of(k_SD: npt.ArrayLike, v_SD: npt.ArrayLike, q_RHD: npt.ArrayLike) -> LayerContext:
    """One KV head, and as many query heads as there are."""
    k_SKD, v_SKD = (np.asarray(x, np.float32)[:, None] for x in (k_SD, v_SD))
    q_RHD = np.asarray(q_RHD, np.float32)
    places_S = np.arange(len(k_SKD))
    seen = Measured(q_RHD=q_RHD, positions_R=places_S[-len(q_RHD) :])
    return LayerContext(0, places_S, places_S, k_SKD, v_SKD, 1, QueryShape(q_RHD.shape[1], scale=SCALE), seen)


def attention(q_D: Doubles, k_SD: Floats, v_SD: Floats, bias_S: Floats | float = 0.0) -> Doubles:
    weights_S = np.exp(k_SD.astype(np.float64) @ q_D * SCALE + bias_S)
    return weights_S @ v_SD.astype(np.float64) / weights_S.sum()


def made(compactor: KeepKv | Matching, context: LayerContext, kept: list[int]) -> Entries:
    (entries,) = compactor.stored(context, [np.array(kept)])
    assert entries is not None
    return entries


@pytest.mark.parametrize("form", ["bias", "zip"])
@pytest.mark.parametrize("seed", range(5))
def test_a_merge_changes_nothing_for_the_query_it_was_made_for(form: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    base_D = 3 * rng.normal(size=8)
    k_SD, v_SD = base_D + 0.4 * rng.normal(size=(6, 8)), rng.normal(size=(6, 8))
    q_D = rng.normal(size=8) + base_D / 3
    context = context_of(k_SD, v_SD, q_D[None, None])
    entries = made(KeepKv(similarity=0.5, form=form), context, [0, 2, 5])
    wanted = attention(q_D, context.k_SKD[:, 0], context.v_SKD[:, 0])
    assert np.allclose(attention(q_D, entries.k_SD, entries.v_SD, entries.bias_S), wanted, atol=1e-5)
    without = attention(q_D, context.k_SKD[[0, 2, 5], 0], context.v_SKD[[0, 2, 5], 0])
    assert not np.allclose(without, wanted, atol=1e-3)


@pytest.mark.parametrize("form", ["bias", "zip"])
def test_a_merge_of_twins_is_right_for_every_query(form: str) -> None:
    rng = np.random.default_rng(0)
    k_SD, v_SD = rng.normal(size=(4, 8)), rng.normal(size=(4, 8))
    k_SD[3], v_SD[3] = k_SD[1], v_SD[1]
    context = context_of(k_SD, v_SD, rng.normal(size=(3, 2, 8)))
    entries = made(KeepKv(similarity=0.99, form=form), context, [0, 1, 2])
    assert entries.changed_S.tolist() == [False, True, False]
    assert entries.bias_S.tolist() == pytest.approx([0, np.log(2), 0], abs=1e-6)
    for _ in range(10):
        q_D = rng.normal(size=8)
        found = attention(q_D, entries.k_SD, entries.v_SD, entries.bias_S)
        assert np.allclose(found, attention(q_D, context.k_SKD[:, 0], context.v_SKD[:, 0]), atol=1e-5)


def test_votes_add_up_to_what_was_merged() -> None:
    rng = np.random.default_rng(2)
    base_SD = np.repeat(4 * rng.normal(size=(3, 8)), 4, axis=0)
    k_SD = base_SD + 0.1 * rng.normal(size=(12, 8))
    context = context_of(k_SD, k_SD, (base_SD[:1] / 4 + 0.1 * rng.normal(size=(1, 8)))[None])
    entries = made(KeepKv(similarity=0.8, form="zip"), context, [0, 4, 8])
    assert np.exp(entries.bias_S).sum() == pytest.approx(12, rel=0.3)
    assert entries.changed_S.all()


@pytest.mark.parametrize("seed", range(3))
def test_on_average_over_queries_and_heads_the_merged_weigh_what_they_weighed(seed: int) -> None:
    rng = np.random.default_rng(seed)
    k_SD = rng.normal(size=8) + 0.5 * rng.normal(size=(5, 8))
    q_RHD, fading = rng.normal(size=(4, 3, 8)), 0.7
    context = context_of(k_SD, k_SD, q_RHD)
    entries = made(KeepKv(similarity=-1.0, fading=fading), context, [2])
    counts_R = fading ** np.arange(3, -1, -1)

    def weight(k_D: Floats, bias: float) -> float:
        weights_RH = np.exp(q_RHD @ k_D.astype(np.float64) * SCALE + bias)
        return float(counts_R @ weights_RH.mean(1) / counts_R.sum())

    total = sum(weight(k_D, 0.0) for k_D in context.k_SKD[:, 0])
    assert weight(entries.k_SD[0], float(entries.bias_S[0])) == pytest.approx(total, rel=1e-5)
    assert entries.bias_S[0] > 0, "a plain average weighs less than its parts do together"


def test_keys_that_point_elsewhere_are_dropped() -> None:
    k_SD = np.eye(4, 8)
    assert KeepKv().stored(context_of(k_SD, k_SD, np.ones((1, 1, 8))), [np.array([0, 1])]) == [None]


@pytest.mark.parametrize("seed", range(3))
def test_matching_gives_reference_queries_what_they_saw(seed: int) -> None:
    rng = np.random.default_rng(seed)
    k_SD, v_SD, q_RHD = 2 * rng.normal(size=(60, 8)), rng.normal(size=(60, 8)), rng.normal(size=(5, 2, 8))
    context, kept = context_of(k_SD, v_SD, q_RHD), sorted(rng.permutation(60)[:25].tolist())
    errors = {}
    for ridge in (1e-8, 0.1, None):
        entries = made(Matching(ridge=ridge or 1.0), context, kept)
        k_PD, v_PD, bias_P = entries.k_SD, entries.v_SD, entries.bias_S
        assert np.array_equal(k_PD, context.k_SKD[kept, 0])
        if ridge is None:
            v_PD, bias_P = context.v_SKD[kept, 0], np.zeros(25, np.float32)
        errors[ridge] = np.mean(
            [
                np.square(attention(q_D, k_PD, v_PD, bias_P) - attention(q_D, k_SD, v_SD)).sum()
                for q_D in q_RHD.reshape(-1, 8)
            ]
        )
    assert errors[1e-8] < 1e-6 * errors[None]
    assert errors[0.1] < 0.3 * errors[None]


@pytest.mark.parametrize("name", COMPACTORS)
def test_who_keeps_everything_changes_nothing(name: str) -> None:
    (one,) = contexts(1, 2, 40)
    assert COMPACTORS[name]().stored(one, [np.arange(40)] * 2) == [None, None]


@pytest.mark.parametrize("name", COMPACTORS)
@pytest.mark.parametrize("scorer", [name for name, method in METHODS.items() if method.ratio is None])
def test_every_scorer_goes_with_every_compactor(name: str, scorer: str) -> None:
    compression = compression_of(scorer, 0.7, compactor=name)
    assert compression.params.get("compactor", "gather") == name
    for one in contexts(2, 3, 50):
        (choice,) = compression.choose(candidates(compression, [one]))
        for head, (kept, entries) in enumerate(
            zip(choice.kept, compression.compactor.stored(one, choice.kept), strict=True)
        ):
            if entries is not None:
                assert entries.k_SD.shape == entries.v_SD.shape == (len(kept), 8)
                assert all(np.isfinite(each).all() for each in (entries.k_SD, entries.v_SD, entries.bias_S))
                same = ~entries.changed_S
                assert np.allclose(entries.k_SD[same], one.k_SKD[kept[same], head], atol=1e-6)


def test_nothing_is_left_and_nothing_was_there() -> None:
    (one,) = contexts(1, 2, 30)
    empty = [np.zeros(0, np.int64)] * 2
    for compactor in (KeepKv(), Matching()):
        assert compactor.stored(one, empty) == [None, None]
        assert compactor.stored(dataclasses.replace(contexts(1, 2, 0)[0]), empty) == [None, None]


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        ({"compactor": "glue"}, "unknown compactor `glue`"),
        ({"similarity": 0.5}, "compactor `gather` has no parameter `similarity`"),
        ({"compactor": "matching", "similarity": 0.5}, "compactor `matching` has no parameter `similarity`"),
        ({"compactor": "keepkv", "form": "sum"}, "form must be one of bias, zip"),
        ({"compactor": "keepkv", "similarity": 2.0}, "similarity must be from -1 to 1"),
        ({"compactor": "keepkv", "fading": 0.0}, "fading must be above 0"),
        ({"compactor": "keepkv", "reference": 0}, "reference must be from 1"),
        ({"compactor": "matching", "ridge": 0.0}, "ridge must be above 0"),
    ],
)
def test_words_that_make_no_sense_are_refused(words: dict, fault: str) -> None:
    with pytest.raises(ParamsError, match=fault):
        compression_of("knorm", 0.5, **words)
