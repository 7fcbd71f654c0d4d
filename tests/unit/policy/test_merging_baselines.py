"""CaM and D2O against their formulas, entry by entry."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import numpy.typing as npt
import pytest

from kvloom.errors import ParamsError
from kvloom.policy.compression import compression_of
from kvloom.policy.compression.base import Entries, LayerContext, Measured
from kvloom.policy.compression.cam import Cam
from kvloom.policy.compression.d2o import D2o
from made_contexts import contexts

Doubles = npt.NDArray[np.float64]


def stored(compactor: Cam | D2o, one: LayerContext, kept: list[list[int]]) -> list[Entries]:
    found = compactor.stored(one, [np.array(head) for head in kept])
    assert all(entries is not None for entries in found)
    return [entries for entries in found if entries is not None]


def drawn(count: int, heads: int, stay: int, seed: int) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [sorted(rng.permutation(count)[:stay].tolist()) for _ in range(heads)]


# -- D2O -----------------------------------------------------------------------------------------------------------


def cosine(a: Doubles, b: Doubles) -> float:
    return float(a @ b / math.sqrt(a @ a) / math.sqrt(b @ b))


def d2o(k_SD: Doubles, v_SD: Doubles, stays: list[int]) -> tuple[Doubles, Doubles, set[int]]:
    """Keys, values, and which of them are merged ones."""
    best = {}
    for gone in set(range(len(k_SD))) - set(stays):
        best[gone] = max((cosine(k_SD[gone], k_SD[stay]), stay) for stay in stays)
    threshold = sum(u for u, _ in best.values()) / len(best)
    keys, values, merged = [], [], set()
    for place, stay in enumerate(stays):
        members = [(gone, u) for gone, (u, partner) in best.items() if partner == stay and u >= threshold]
        total = math.e + sum(math.exp(u) for _, u in members)
        keys.append((math.e * k_SD[stay] + sum(math.exp(u) * k_SD[gone] for gone, u in members)) / total)
        values.append((math.e * v_SD[stay] + sum(math.exp(u) * v_SD[gone] for gone, u in members)) / total)
        merged |= {place} if members else set()
    return np.stack(keys), np.stack(values), merged


@pytest.mark.parametrize("seed", range(4))
def test_d2o_is_the_papers_mean_of_those_that_are_alike(seed: int) -> None:
    (one,) = contexts(1, 2, 60, seed=seed)
    kept = drawn(60, 2, 18, seed)
    for head, entries in enumerate(stored(D2o(), one, kept)):
        k_SD, v_SD = (x_SKD[:, head].astype(np.float64) for x_SKD in (one.k_SKD, one.v_SKD))
        k_PD, v_PD, merged = d2o(k_SD, v_SD, kept[head])
        assert set(np.flatnonzero(entries.changed_S).tolist()) == merged
        assert 0 < len(merged) < 18
        assert np.allclose(entries.k_SD, k_PD, atol=1e-5)
        assert np.allclose(entries.v_SD, v_PD, atol=1e-5)
        assert not entries.bias_S.any()


def test_a_mean_weighs_less_than_its_parts_did() -> None:
    """The sag that KeepKV is there for: whatever the query."""
    (one,) = contexts(1, 1, 40, seed=5)
    kept = drawn(40, 1, 1, 5)
    (entries,) = stored(D2o(), one, kept)
    similar = [n for n in range(40) if n != kept[0][0]]
    cosines = {
        n: cosine(one.k_SKD[n, 0].astype(np.float64), one.k_SKD[kept[0][0], 0].astype(np.float64)) for n in similar
    }
    members = [n for n in similar if cosines[n] >= sum(cosines.values()) / len(cosines)]
    for q_D in np.random.default_rng(0).normal(size=(50, 8)):
        parts = np.exp(one.k_SKD[[*kept[0], *members], 0] @ q_D).sum()
        assert np.exp(entries.k_SD[0] @ q_D) < parts


def test_twins_of_what_stays_are_merged_into_it_without_a_trace() -> None:
    (one,) = contexts(1, 1, 30, seed=6)
    k_SKD, v_SKD = (np.repeat(x[:10], 3, axis=0) for x in (one.k_SKD, one.v_SKD))
    twins = dataclasses.replace(one, k_SKD=k_SKD, v_SKD=v_SKD)
    (entries,) = stored(D2o(), twins, [list(range(0, 30, 3))])
    assert entries.changed_S.all()
    assert np.allclose(entries.k_SD, one.k_SKD[:10, 0], atol=1e-6)
    assert np.allclose(entries.v_SD, one.v_SKD[:10, 0], atol=1e-6)


# -- CaM -----------------------------------------------------------------------------------------------------------


def with_attention(one: LayerContext, attention_KS: npt.ArrayLike) -> LayerContext:
    return dataclasses.replace(one, measured=Measured(attention_KS=np.asarray(attention_KS, np.float32)))


def cam(v_SD: Doubles, stays: list[int], merges: list[int], neighbours: int) -> Doubles:
    v_SD = v_SD.copy()
    for gone in merges:
        window = [stay for stay in stays if stay > gone][:neighbours]
        for stay in window:
            v_SD[stay] += v_SD[gone] / len(window)
    return v_SD[stays]


@pytest.mark.parametrize("neighbours", [1, 5, 32])
@pytest.mark.parametrize("seed", range(3))
def test_values_that_are_certain_to_be_merged_go_to_the_next_that_stay(neighbours: int, seed: int) -> None:
    (one,) = contexts(1, 2, 70, seed=seed)
    alike, kept = with_attention(one, np.ones((2, 70))), drawn(70, 2, 20, seed)
    for head, entries in enumerate(stored(Cam(neighbours), alike, kept)):
        gone = sorted(set(range(70)) - set(kept[head]))
        wanted_PD = cam(one.v_SKD[:, head].astype(np.float64), kept[head], gone, neighbours)
        assert np.allclose(entries.v_SD, wanted_PD, atol=1e-4)
        assert np.array_equal(entries.k_SD, one.k_SKD[kept[head], head])
        assert not entries.bias_S.any()
        same = ~entries.changed_S
        assert np.array_equal(entries.v_SD[same], one.v_SKD[kept[head], head][same])


def test_how_often_is_attention_by_that_of_the_neighbours() -> None:
    (one,) = contexts(1, 1, 12, seed=1)
    attention_S = np.array([2, 9, 9, 3, 4, 9, 6, 1, 9, 9, 0, 9], np.float32)
    stays, gone, neighbours, times = [1, 2, 5, 8, 9], [0, 3, 4, 6, 7, 10, 11], 2, 3000
    counts = dict.fromkeys(gone, 0)
    for layer in range(times):
        k_SKD, v_SKD = np.zeros((2, 12, 1, 12), np.float32)
        v_SKD[:, 0] = np.eye(12)
        each = dataclasses.replace(with_attention(one, attention_S[None]), layer=layer, k_SKD=k_SKD, v_SKD=v_SKD)
        (entries,) = Cam(neighbours).stored(each, [np.array(stays)])
        for n in gone if entries is not None else ():
            counts[n] += bool(entries.v_SD[:, n].any())
    for n in gone:
        window = [float(attention_S[stay]) for stay in stays if stay > n][:neighbours]
        chance = min(1.0, float(attention_S[n]) / np.mean(window)) if window else 0.0
        assert counts[n] / times == pytest.approx(chance, abs=0.04)
    assert counts[10] == counts[11] == 0, "nothing follows them that stays"


def test_draws_depend_on_the_layer_and_on_what_the_context_says() -> None:
    (one,) = contexts(1, 2, 80, seed=2)
    kept = drawn(80, 2, 20, 2)

    def values(context: LayerContext) -> list[list[float]]:
        return [entries.v_SD.tolist() for entries in stored(Cam(), context, kept)]

    assert values(one) == values(one)
    assert values(one) != values(dataclasses.replace(one, layer=1))
    assert values(one) != values(dataclasses.replace(one, tokens_S=one.tokens_S + 1))


def test_entries_without_attention_are_dropped_and_nothing_is_divided_by_zero() -> None:
    (one,) = contexts(1, 1, 40, seed=3)
    stays, attention_S = list(range(0, 40, 4)), np.zeros(40)
    assert Cam().stored(with_attention(one, attention_S[None]), [np.array(stays)]) == [None]
    attention_S[[1, 2]] = 1e-3  # those that follow get nothing at all
    (entries,) = stored(Cam(neighbours=3), with_attention(one, attention_S[None]), [stays])
    assert np.allclose(entries.v_SD, cam(one.v_SKD[:, 0].astype(np.float64), stays, [1, 2], 3), atol=1e-5)


@pytest.mark.parametrize("compactor", [Cam(), D2o()])
def test_nothing_is_left_and_nothing_was_there(compactor: Cam | D2o) -> None:
    empty = [np.zeros(0, np.int64)] * 2
    assert compactor.stored(contexts(1, 2, 30)[0], empty) == [None, None]
    assert compactor.stored(contexts(1, 2, 0)[0], empty) == [None, None]


@pytest.mark.parametrize("words", [{"neighbours": 0}, {"reference": 0}, {"reference": 2000}])
def test_words_that_make_no_sense_are_refused(words: dict) -> None:
    with pytest.raises(ParamsError) as caught:
        compression_of("knorm", 0.5, compactor="cam", **words)
    assert caught.value.param == next(iter(words))
    with pytest.raises(ParamsError, match="compactor `d2o` has no parameter"):
        compression_of("knorm", 0.5, compactor="d2o", **words)
