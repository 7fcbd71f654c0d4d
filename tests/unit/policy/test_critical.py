"""Choosing by score and projected value, against kvpress's two stages written out in float64."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import pytest

from kvloom.policy.compression import compression_of
from kvloom.policy.compression.base import LayerContext
from kvloom.policy.compression.critical import projected_norms
from kvloom.policy.compression.needs import Cached, Given
from made_contexts import GROUP, candidates, contexts

Doubles = npt.NDArray[np.float64]


def norms(one: LayerContext) -> Doubles:
    """(K, S), value by value."""
    assert one.output_HDC is not None
    found = np.zeros(one.shape)
    for head, entry in np.ndindex(one.shape):
        maps = one.output_HDC[head * GROUP : (head + 1) * GROUP].astype(np.float64)
        found[head, entry] = np.mean([np.abs(one.v_SKD[entry, head] @ map_DC).sum() for map_DC in maps])
    return found


def two_stages(score_S: Doubles, norm_S: Doubles, count: int, share: float = 0.5) -> set[int]:
    """As kvpress does it: the first get the highest score there is, the others theirs times the norm."""
    first = np.argsort(-score_S, kind="stable")[: int(count * share)]
    weighed_S = (score_S + 1e-4) * norm_S
    weighed_S[first] = np.finfo(np.float32).max
    return set(np.argsort(-weighed_S, kind="stable")[:count].tolist())


def kept(one: LayerContext, name: str, ratio: float, **words: object) -> list[list[int]]:
    compression = compression_of(name, ratio, **words)
    (choice,) = compression.choose(candidates(compression, [one]))
    return [[int(n) for n in head] for head in choice.kept]


@pytest.mark.parametrize("name", ["h2o", "random"])
@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.55, 0.9])
def test_half_is_chosen_by_score_and_half_by_score_times_norm(name: str, ratio: float) -> None:
    (one,) = contexts(1, 3, 61, seed=4)
    scores_KS = compression_of(name, ratio).scores(one).astype(np.float64)
    found = kept(one, name, ratio, critical=0.5)
    for head, (score_S, norm_S) in enumerate(zip(scores_KS, norms(one), strict=True)):
        assert set(found[head]) == two_stages(score_S, norm_S, len(found[head]))
    plain = kept(one, name, ratio)
    assert [len(head) for head in found] == [len(head) for head in plain]
    assert ratio == 0 or found != plain


def test_budgets_are_those_of_the_scores_alone() -> None:
    """CriticalAdaKV: the first stage's heads share what the scores say."""
    (one,) = contexts(1, 3, 61, seed=5)
    plain, found = (kept(one, "h2o", 0.6, allocator="adakv", critical=share) for share in (0.0, 0.5))
    sizes = [len(head) for head in plain]
    assert [len(head) for head in found] == sizes
    assert len(set(sizes)) > 1
    scores_KS = compression_of("h2o", 0.6).scores(one).astype(np.float64)
    for head, (score_S, norm_S) in enumerate(zip(scores_KS, norms(one), strict=True)):
        assert set(found[head]) == two_stages(score_S, norm_S, sizes[head])


def test_shares_of_none_and_of_all() -> None:
    (one,) = contexts(1, 2, 50, seed=6)
    scores_KS = compression_of("h2o", 0.5).scores(one).astype(np.float64)
    assert compression_of("h2o", 0.5, critical=0.0) == compression_of("h2o", 0.5)
    for head, (score_S, norm_S) in enumerate(zip(scores_KS, norms(one), strict=True)):
        assert set(kept(one, "h2o", 0.5, critical=1.0)[head]) == two_stages(score_S, norm_S, 25, share=0.0)


def test_norms_are_the_same_however_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    (one,) = contexts(1, 3, 61)
    assert one.output_HDC is not None
    values = list(one.v_SKD.transpose(1, 0, 2))
    assert np.allclose(projected_norms(values, one.output_HDC), norms(one), rtol=1e-5)
    monkeypatch.setattr("kvloom.policy.compression.critical._BLOCK_VALUES", 7 * GROUP * 12)
    assert np.allclose(projected_norms(values, one.output_HDC), norms(one), rtol=1e-5)


@pytest.mark.parametrize("name", ["knorm", "keydiff", "sink_recent"])
def test_a_value_that_is_written_more_helps_whatever_the_sign_of_scores(name: str) -> None:
    """Scores below zero, times a norm, would turn it round."""
    (one,) = contexts(1, 1, 40, seed=1)
    k_SKD = np.broadcast_to(one.k_SKD[:1], one.k_SKD.shape)
    alike = dataclasses.replace(one, k_SKD=k_SKD, v_SKD=np.ones_like(one.v_SKD))
    large = alike.v_SKD.copy()
    large[30] *= 1e4
    found = kept(dataclasses.replace(alike, v_SKD=large), name, 0.5, critical=0.5)
    assert 30 in found[0]
    if name != "sink_recent":
        assert 30 not in kept(alike, name, 0.5, critical=0.5)[0]


def test_only_who_asks_for_it_looks_at_values_and_weights() -> None:
    extra = {Cached.VALUES, Given.OUTPUT}
    assert not compression_of("h2o", 0.5).needs & extra
    assert compression_of("h2o", 0.5, critical=0.5).needs_to_choose >= extra


def test_what_is_required_goes_before_what_weighs_much() -> None:
    (one,) = contexts(1, 2, 40, seed=2)
    found = kept(one, "snapkv", 0.5, critical=1.0, window=8, protect="3:6")
    assert all(set(head) >= {3, 4, 5, *range(32, 40)} for head in found)
