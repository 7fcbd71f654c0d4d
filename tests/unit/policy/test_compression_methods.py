"""What methods of compression keep: exact counts, the right entries, the same ones for the same context."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvloom.errors import ParamsError, RequestError
from kvloom.policy.compression import METHODS, Compression, compression_of
from kvloom.policy.compression.base import Floats, LayerContext
from kvloom.policy.compression.controls import KeepAll
from kvloom.policy.compression.kvzap import KvZap
from kvloom.policy.compression.needs import Attention, Cached, Hidden, Last, Queries, Repeated, Said, Spread
from kvloom.policy.compression.uniform import kept_of
from made_contexts import candidates, contexts

HEADS, DIM = 2, 4
RATIOS = {name: 0.5 if method.ratio is None else method.ratio for name, method in METHODS.items()}


def context(content: int = 0, count: int = 64, layer: int = 0, first: int = 0) -> LayerContext:
    (made,) = contexts(1, HEADS, count, DIM, content, first)
    return dataclasses.replace(made, layer=layer)


def kept(compression: Compression, *contexts: LayerContext) -> list[list[list[int]]]:
    """By layer and head."""
    gathers = compression.choose(candidates(compression, contexts))
    assert [gather.layer for gather in gathers] == [one.layer for one in contexts]
    return [[list(map(int, of_head)) for of_head in gather.kept] for gather in gathers]


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("count", [1, 2, 15, 64])
def test_every_method_keeps_as_many_as_it_says_each_once(name: str, count: int) -> None:
    (heads,) = kept(compression_of(name, RATIOS[name]), context(count=count))
    assert len(heads) == HEADS
    for indices in heads:
        assert indices == sorted(set(indices))
        assert set(indices) <= set(range(count))
        assert len(indices) == kept_of(count, RATIOS[name])


@given(count=st.integers(0, 3000), ratio=st.floats(0, 1))
def test_what_is_removed_is_rounded_to_the_nearest(count: int, ratio: float) -> None:
    stays = kept_of(count, ratio)
    assert abs(count - stays - ratio * count) <= (0.5 if stays != 1 else 1.0)
    assert 0 <= stays <= count
    assert bool(stays) == bool(count and (ratio < 1))
    assert kept_of(count, 0.0) == count


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.ratio is None])
def test_who_removes_more_keeps_a_part_of_what_who_removes_less_keeps(name: str) -> None:
    (more,), (less,) = (kept(compression_of(name, ratio), context()) for ratio in (0.3, 0.8))
    assert all(set(a) > set(b) for a, b in zip(more, less, strict=True))


def test_the_shortest_keys_stay() -> None:
    one = context()
    (heads,) = kept(compression_of("knorm", 0.75), one)
    norms_SK = np.sqrt((one.k_SKD.astype(np.float64) ** 2).sum(-1))
    for head, indices in enumerate(heads):
        assert indices == sorted(np.argsort(norms_SK[:, head])[:16].tolist())


def test_sinks_and_the_latest_stay() -> None:
    (heads,) = kept(compression_of("sink_recent", 0.75, sinks=3), context())
    assert heads == [[0, 1, 2, *range(51, 64)]] * HEADS
    (heads,) = kept(compression_of("sink_recent", 0.75, sinks=3), context(first=2))  # of a window's, one is a sink
    assert heads == [[0, *range(49, 64)]] * HEADS
    (heads,) = kept(compression_of("sink_recent", 0.99), context(count=100))
    assert heads == [[0]] * HEADS


def test_a_random_method_draws_from_seed_layer_and_content() -> None:
    """One pattern for all contexts of a length would be one observation, however many samples there are."""

    def drawn(seed: int, content: int, layer: int) -> list[list[int]]:
        return kept(compression_of("random", 0.5, seed=seed), context(content, layer=layer))[0]

    assert drawn(0, 1, 0) == drawn(0, 1, 0)
    assert len({str(drawn(s, c, n)) for s in range(3) for c in range(3) for n in range(2)}) == 18
    assert drawn(0, 1, 0)[0] != drawn(0, 1, 0)[1]


def test_of_equals_the_earlier_stays() -> None:
    assert kept(Compression(KeepAll(), 0.5), context(count=6)) == [[[0, 1, 2]] * HEADS]


def test_a_scorer_sees_what_it_needs_and_no_more() -> None:
    (hidden,) = KvZap().needs
    assert isinstance(hidden, Hidden)
    assert {name: method.scorer().needs for name, method in METHODS.items() if name != "kvzap"} == {
        "keep_all": frozenset(),
        "keep_none": frozenset(),
        "random": frozenset(),
        "sink_recent": frozenset(),
        "knorm": {Cached.KEYS},
        "keydiff": {Cached.KEYS},
        "leverage": {Cached.KEYS},
        "compactor": {Cached.KEYS, Cached.VALUES, Queries(Spread(1024, first=8))},
        "h2o": {Attention()},
        "tova": {Attention(Last(1))},
        "snapkv": {Attention(Last(64))},
        "laq": {Attention(Said(16))},
        "observed_attention": {Attention()},
        "kvzip": {Attention(Repeated(1024, 8), "max")},
        "expected_attention": {Cached.KEYS, Cached.VALUES, Queries(Spread(512, first=4))},
    }


@pytest.mark.parametrize("value", [np.nan, "shape"])
def test_scores_that_are_none_are_refused(value: object) -> None:
    @dataclasses.dataclass(frozen=True)
    class Broken(KeepAll):
        def scores(self, context: LayerContext) -> Floats:
            return np.full(
                (1, 64) if value == "shape" else context.shape, 0 if value == "shape" else np.nan, np.float32
            )

    with pytest.raises(RequestError, match="`keep_all` must score 64 entries for each of 2 heads with numbers"):
        kept(Compression(Broken(), 0.5), context())


@pytest.mark.parametrize(
    ("name", "asked", "fault", "param"),
    [
        ("h3o", {}, "unknown method `h3o`", "method"),
        ("knorm", {}, "needs a ratio", "ratio"),
        ("knorm", {"ratio": 1.5}, "from 0 to 1", "ratio"),
        ("knorm", {"ratio": float("nan")}, "from 0 to 1", "ratio"),
        ("knorm", {"ratio": "half"}, "from 0 to 1", "ratio"),
        ("knorm", {"ratio": True}, "from 0 to 1", "ratio"),
        ("knorm", {"ratio": 0.5, "seed": 1}, "has no parameter `seed`", "seed"),
        ("random", {"ratio": 0.5, "seed": "1"}, "seed must be of type int", "seed"),
        ("sink_recent", {"ratio": 0.5, "sinks": -1}, "sinks must be", "sinks"),
        ("keep_all", {"ratio": 0.5}, "no ratio but 0", "ratio"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(name: str, asked: dict, fault: str, param: str) -> None:
    with pytest.raises(ParamsError, match=fault) as caught:
        compression_of(name, **asked)
    assert caught.value.param == param
