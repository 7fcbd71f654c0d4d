"""Allocators against what their papers say: closed forms, small cases by hand, and every division there is."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvloom.errors import DataFileError, ParamsError, RequestError
from kvloom.policy.compression.adakv import AdaKv
from kvloom.policy.compression.base import REQUIRED, Floats
from kvloom.policy.compression.depthkv import DepthKv, water_fill
from kvloom.policy.compression.global_top import GlobalTop
from kvloom.policy.compression.head_classes import HeadClasses
from kvloom.policy.compression.heads import apportion, best_of_all
from kvloom.policy.compression.pyramid import Pyramid
from kvloom.policy.compression.uniform import kept_of
from kvloom.policy.compression.xkv import Xkv
from made_contexts import in_a_row, origin

WHOLE = st.integers(0, 9)


def drawn(layers: int, heads: int, count: int, seed: int = 0) -> list[Floats]:
    return list(np.random.default_rng(seed).exponential(size=(layers, heads, count)).astype(np.float32))


# -- division without a remainder ----------------------------------------------------------------------------------


@given(data=st.data(), heads=st.integers(1, 6))
def test_parts_add_up_within_bounds_and_nobody_loses_when_there_is_more(data: st.DataObject, heads: int) -> None:
    lists = st.lists(st.integers(0, 12), min_size=heads, max_size=heads)
    least_N, more_N = (np.array(data.draw(lists)) for _ in range(2))
    most_N = least_N + more_N
    weights_N = np.array(data.draw(st.lists(st.floats(1e-6, 1e6) | st.just(0.0), min_size=heads, max_size=heads)))
    before = least_N
    for total in range(int(least_N.sum()), int(most_N.sum()) + 1):
        parts_N = apportion(weights_N, total, least_N, most_N)
        assert parts_N.sum() == total
        assert (least_N <= parts_N).all()
        assert (parts_N <= most_N).all()
        assert (parts_N >= before).all()
        before = parts_N


@given(weights=st.lists(st.integers(1, 50), min_size=1, max_size=5), total=st.integers(0, 60))
def test_parts_are_those_of_the_highest_averages(weights: list[int], total: int) -> None:
    """The oracle: one by one, to whoever has the highest weight / (2 n + 1)."""
    parts = [0] * len(weights)
    for _ in range(total):
        turn = max(range(len(weights)), key=lambda n: (weights[n] / (2 * parts[n] + 1), -n))
        parts[turn] += 1
    found = apportion(np.array(weights, float), total, np.zeros(len(weights), int), np.full(len(weights), total))
    averages = [sorted(w / (2 * n + 1) for w, n in zip(weights, one, strict=True)) for one in (parts, found.tolist())]
    assert np.allclose(*averages)  # ties may go to another of those that are equal


# -- pyramid -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ratio", [0.5, 0.8, 0.95])
def test_a_pyramid_is_a_straight_line_with_the_papers_ends(ratio: float) -> None:
    layers, heads, count, beta = 6, 2, 1000, 20
    mean = kept_of(count, ratio)
    ends = (2 * mean - mean / beta, mean / beta)
    if ends[0] > count:
        ends = (count, 2 * mean - count)
    wanted = np.repeat(np.linspace(*ends, layers), heads)
    found = in_a_row(Pyramid(beta).kept(ratio, drawn(layers, heads, count), origin(layers)))
    assert np.abs(np.array(found) - wanted).max() <= 1
    assert sum(found) == layers * heads * mean


def test_a_pyramid_of_steepness_one_is_none() -> None:
    assert set(in_a_row(Pyramid(1).kept(0.6, drawn(5, 2, 100), origin(5)))) == {40}


def test_a_layer_with_a_window_keeps_its_share_of_what_it_holds() -> None:
    scores = [*drawn(1, 1, 100), *drawn(1, 1, 1000), *drawn(1, 1, 100)]
    assert in_a_row(Pyramid(1).kept(0.7, scores, origin(3))) == [30, 300, 30]


# -- Ada-KV --------------------------------------------------------------------------------------------------------


@given(rows=st.lists(st.lists(WHOLE, min_size=7, max_size=7), min_size=1, max_size=4), total=st.integers(0, 28))
def test_the_best_of_all_heads_are_the_top_of_all_in_one_row(rows: list[list[int]], total: int) -> None:
    scores_KS = np.array(rows, np.float32)
    total = min(total, scores_KS.size)
    counts_K = best_of_all([scores_KS], total, np.zeros(len(rows), np.int64))
    best = sorted(scores_KS.reshape(-1), reverse=True)[:total]
    kept = [score for row, n in zip(rows, counts_K, strict=True) for score in sorted(row, reverse=True)[:n]]
    assert sorted(kept, reverse=True) == best
    assert int(counts_K.sum()) == total


@given(
    rows=st.lists(st.lists(st.floats(-8, 8, width=16), min_size=9, max_size=9), min_size=2, max_size=3),
    factor=st.sampled_from([0.5, 2.0, 1024.0]),
)
def test_ada_kv_looks_at_the_order_within_a_layer_only(rows: list[list[float]], factor: float) -> None:
    """A layer's scale changes nothing, nor does any other rising function."""
    scores = [np.array(rows, np.float32), *drawn(1, len(rows), 9)]
    found = in_a_row(AdaKv(0.2).kept(0.5, scores, origin(2)))
    assert found == in_a_row(AdaKv(0.2).kept(0.5, [scores[0] * np.float32(factor), scores[1]], origin(2)))
    ranks = np.unique(scores[0], return_inverse=True)[1].reshape(scores[0].shape).astype(np.float32)
    assert found == in_a_row(AdaKv(0.2).kept(0.5, [ranks, scores[1]], origin(2)))


@pytest.mark.parametrize("floor", [0.0, 0.2, 1.0])
def test_every_head_keeps_the_floor(floor: float) -> None:
    scores_KS = np.stack([np.arange(100), np.arange(100) + 1000]).astype(np.float32)
    (counts_K,) = AdaKv(floor).kept(0.6, [scores_KS], origin(1))
    low = max(1, int(40 * floor))
    assert counts_K.tolist() == [low, 80 - low]


def test_ada_kv_matches_a_masking_of_all_but_the_safe() -> None:
    """kvpress: the safe of each head get the highest score there is, then all but the lowest of all heads stay."""
    (scores_KS,) = drawn(1, 4, 50)
    (counts_K,) = AdaKv(0.5).kept(0.7, [scores_KS], origin(1))
    safe_KS = scores_KS.copy()
    np.put_along_axis(safe_KS, np.argsort(-scores_KS, axis=1)[:, : int(15 * 0.5)], np.inf, axis=1)
    gone = np.argsort(safe_KS.reshape(-1))[: 4 * 35]
    assert counts_K.tolist() == (50 - np.bincount(gone // 50, minlength=4)).tolist()


def test_heads_that_score_alike_keep_alike() -> None:
    (counts_K,) = AdaKv(0.0).kept(0.5, [np.ones((4, 30), np.float32)], origin(1))
    assert counts_K.tolist() == [15] * 4


def test_what_is_required_of_a_head_is_safe() -> None:
    (scores_KS,) = drawn(1, 2, 40)
    scores_KS[0] += 100
    scores_KS[1, :7] = REQUIRED
    (counts_K,) = AdaKv(0.0).kept(0.75, [scores_KS], origin(1))
    assert counts_K.tolist() == [13, 7]


# -- one budget for all --------------------------------------------------------------------------------------------


@given(data=st.data(), ratio=st.floats(0, 0.95))
def test_the_best_of_all_layers_are_the_top_of_everything_in_one_row(data: st.DataObject, ratio: float) -> None:
    sizes = data.draw(st.lists(st.sampled_from([3, 8]), min_size=1, max_size=3))  # a layer with a window holds fewer
    scores = [np.array(data.draw(st.lists(st.lists(WHOLE, min_size=n, max_size=n), min_size=2, max_size=2)), np.float32)
              for n in sizes]  # fmt: skip
    counts = in_a_row(GlobalTop().kept(ratio, scores, origin(len(sizes))))
    rows = [sorted(map(float, row), reverse=True) for scores_KS in scores for row in scores_KS]
    rest = sorted((score for row in rows for score in row[1:]), reverse=True)  # the best of each head stays anyhow
    kept = sorted((score for row, n in zip(rows, counts, strict=True) for score in row[1:n]), reverse=True)
    assert kept == rest[: len(kept)]
    assert sum(counts) == sum(2 * kept_of(n, ratio) for n in sizes)


# -- XKV -----------------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 10_000), layers=st.integers(1, 3), heads=st.integers(1, 2), kept=st.integers(1, 4))
def test_xkv_gains_as_much_as_the_best_of_all_divisions(seed: int, layers: int, heads: int, kept: int) -> None:
    count = 5
    scores = drawn(layers, heads, count, seed)
    found = Xkv().kept(1 - kept / count, scores, origin(layers))
    assert all(len(set(counts_K.tolist())) == 1 for counts_K in found)

    def gain(slots: tuple[int, ...]) -> float:
        return sum(
            float(-np.sort(-one, axis=1)[:, :n].sum()) / float(one.sum()) for one, n in zip(scores, slots, strict=True)
        )

    divisions = itertools.product(range(1, count + 1), repeat=layers)
    best = max(gain(slots) for slots in divisions if sum(slots) == layers * kept)
    assert gain(tuple(int(counts_K[0]) for counts_K in found)) == pytest.approx(best, rel=1e-5)


def test_equal_layers_get_equal_budgets() -> None:
    one = drawn(1, 2, 40)[0]
    assert set(in_a_row(Xkv().kept(0.6, [one] * 5, origin(5)))) == {16}
    assert set(in_a_row(Xkv().kept(0.6, [np.ones((2, 40), np.float32)] * 5, origin(5)))) == {16}


def test_a_layers_scale_changes_nothing_to_xkv() -> None:
    scores = drawn(3, 2, 40)
    scaled = [one * np.float32(4.0**n) for n, one in enumerate(scores)]
    assert in_a_row(Xkv().kept(0.6, scores, origin(3))) == in_a_row(Xkv().kept(0.6, scaled, origin(3)))


def test_a_concentrated_layer_needs_less() -> None:
    flat, steep = np.ones((1, 50), np.float32), (0.5 ** np.arange(50, dtype=np.float32))[None]
    low, high = in_a_row(Xkv().kept(0.5, [steep, flat], origin(2)))
    assert (low, high) == (5, 45)  # 2 ** -n against 1 / 50: five of the steep are worth more


def test_layers_with_more_heads_share_what_is_less_than_a_slot() -> None:
    scores = [*drawn(1, 3, 20, seed=1), *drawn(1, 2, 20, seed=2)]
    assert sum(in_a_row(Xkv().kept(0.55, scores, origin(2)))) == 5 * 9


def test_xkv_refuses_what_has_no_shares() -> None:
    with pytest.raises(RequestError, match="not negative"):
        Xkv().kept(0.5, [-one for one in drawn(1, 1, 4)], origin(1))


# -- DepthKV -------------------------------------------------------------------------------------------------------


@given(
    alpha=st.lists(st.floats(0.01, 100), min_size=1, max_size=8),
    ratio=st.floats(0, 1),
    cap=st.floats(0.05, 1),
    spared=st.integers(0, 3),
)
def test_water_finds_its_level(alpha: list[float], ratio: float, cap: float, spared: int) -> None:
    spared_L = np.arange(len(alpha)) < spared
    try:
        lost_L = water_fill(np.array(alpha), ratio, cap, spared_L)
    except ParamsError:
        assert ratio * len(alpha) > max(0, len(alpha) - spared) * cap * (1 - 1e-9)
        return
    assert lost_L.sum() == pytest.approx(len(alpha) * ratio, abs=1e-9)
    assert (lost_L <= cap * (1 + 1e-9)).all()
    assert (lost_L[spared_L] == 0).all()
    below_L = ~spared_L & (lost_L < cap * (1 - 1e-9))
    levels = lost_L[below_L] / np.array(alpha)[below_L]
    assert np.allclose(levels, levels[:1], rtol=1e-6, atol=1e-12)
    full_L = ~spared_L & ~below_L  # who is at the cap would have more by the level
    assert not len(levels) or (levels[0] * np.array(alpha)[full_L] >= cap * (1 - 1e-6)).all()


@pytest.mark.parametrize(("middle", "fits"), [(2, True), (3, True), (4, False), (6, False)])
def test_what_the_paper_spares_fits_or_does_not(middle: int, fits: bool) -> None:
    """32 layers, 0.6 removed, at most 0.7 of a layer, the first spared: 28 x 0.7 is enough, 27 x 0.7 is not."""
    allocator, scores = DepthKv(0.7, 1, middle), drawn(32, 1, 1000)
    if not fits:
        with pytest.raises(ParamsError, match=f"{middle + 1} of 32 layers lose nothing") as caught:
            allocator.kept(0.6, scores, origin(32))
        assert caught.value.param == "ratio"
        return
    counts = np.array(in_a_row(allocator.kept(0.6, scores, origin(32))))
    whole = [0, *range(16, 16 + middle)] if middle == 2 else [0, *range(16, 19)]
    assert np.flatnonzero(counts == 1000).tolist() == whole
    assert counts.sum() == 32 * 400
    assert counts.min() >= 299


def test_a_layer_loses_by_its_sensitivity(tmp_path: Path) -> None:
    path = tmp_path / "infonce.txt"
    path.write_text("9\n1 \n2\n4\n")
    counts = in_a_row(DepthKv(0.7, 1, 0, path).kept(0.35, drawn(4, 1, 1000), origin(4)))
    # 1.4 in parts of 1, 2 and 4 are 0.2, 0.4 and 0.8, which is over 0.7; so that 0.7 is left in parts of 1 and 2
    assert counts == [1000, 767, 533, 300]


def test_a_file_that_says_nothing_of_sensitivity(tmp_path: Path) -> None:
    path = tmp_path / "infonce.txt"
    with pytest.raises(DataFileError, match="cannot be read"):
        DepthKv(sensitivity=path)
    for text in ("", "many", "1\n0\n", "nan"):
        path.write_text(text)
        with pytest.raises(DataFileError, match=r"is no table of numbers|not above 0"):
            DepthKv(sensitivity=path)
    path.write_text("1\n2\n")
    with pytest.raises(ParamsError, match="numbers for 2 layers"):
        DepthKv(sensitivity=path).kept(0.2, drawn(3, 1, 10), origin(3))


# -- classes of heads ----------------------------------------------------------------------------------------------


def classes(folder: Path, gates: str, streaming: int = 20) -> HeadClasses:
    path = folder / "gates.tsv"
    path.write_text(gates)
    return HeadClasses(path, streaming)


def test_heads_stream_from_the_lowest_gate_on(tmp_path: Path) -> None:
    allocator = classes(tmp_path, "0.9\t0.1\n0.4\t0.8\n")
    scores = drawn(2, 2, 100)
    assert in_a_row(allocator.kept(0.2, scores, origin(2))) == [100, 20, 100, 100]
    assert in_a_row(allocator.kept(0.3, scores, origin(2))) == [100, 20, 60, 100]
    assert in_a_row(allocator.kept(0.4, scores, origin(2))) == [100, 20, 20, 100]
    assert in_a_row(allocator.kept(0.8, scores, origin(2))) == [20, 20, 20, 20]
    assert in_a_row(allocator.kept(0.9, scores, origin(2))) == [10, 10, 10, 10]


def test_two_classes_are_gates_of_zero_and_one(tmp_path: Path) -> None:
    allocator = classes(tmp_path, "1 0\n0 1\n")
    scores = drawn(2, 2, 100)
    assert in_a_row(allocator.kept(0.4, scores, origin(2))) == [100, 20, 20, 100]
    assert in_a_row(allocator.kept(0.2, scores, origin(2))) == [100, 60, 60, 100]
    assert in_a_row(allocator.kept(0.6, scores, origin(2))) == [60, 20, 20, 60]


def test_gates_of_another_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="has 2 layers of 2 KV heads; layer 0 has 3") as caught:
        classes(tmp_path, "1 0\n0 1\n").kept(0.5, drawn(2, 3, 10), origin(2))
    assert caught.value.param == "gates"
    with pytest.raises(ParamsError, match="layer 2 has 2"):
        classes(tmp_path, "1 0\n0 1\n").kept(0.5, drawn(3, 2, 10), origin(3))
    with pytest.raises(DataFileError, match="no table"):
        classes(tmp_path, "1 0\n0\n")
