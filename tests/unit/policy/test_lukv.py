"""LU-KV against isotonic regression, every division there is, and what the paper says of it; its profiles."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvloom.errors import DataFileError, ParamsError
from kvloom.policy.compression import compression_of
from kvloom.policy.compression.base import REQUIRED, Floats, Origin
from kvloom.policy.compression.hull import Curve, parts_of, spend
from kvloom.policy.compression.lukv import LuKv, curve_of
from kvloom.policy.compression.profile import MadeFor, Profile, read_profile, write_profile
from made_contexts import WEIGHTS, candidates, contexts, in_a_row, profile

UTILITIES = st.lists(st.integers(0, 20), min_size=1, max_size=7)
"""Of the entries of a head, in the scorer's order."""


def curve(utilities: list[int], unit_bytes: int = 1) -> Curve:
    losses = np.cumsum([0, *reversed(utilities)])[::-1].astype(float)
    return Curve(np.arange(len(losses)), losses, unit_bytes)


def pooled(utilities: list[int]) -> npt.NDArray[np.float64]:
    """The oracle: pool adjacent violators, for marginals that do not rise."""
    blocks: list[tuple[float, int]] = []
    for utility in utilities:
        blocks.append((float(utility), 1))
        while len(blocks) > 1 and blocks[-1][0] * blocks[-2][1] > blocks[-2][0] * blocks[-1][1]:
            (total, width), (more, wider) = blocks.pop(), blocks.pop()
            blocks.append((total + more, width + wider))
    return np.concatenate([np.full(width, total / width) for total, width in blocks])


# -- the hull and the greedy ---------------------------------------------------------------------------------------


@given(UTILITIES)
def test_a_hulls_gains_are_those_of_isotonic_regression(utilities: list[int]) -> None:
    parts = parts_of(curve(utilities))
    gains = np.concatenate([np.full(part.units, part.gain) for part in parts])
    assert np.allclose(gains, pooled(utilities), atol=1e-9)
    assert gains.sum() == pytest.approx(sum(utilities))
    assert all(a.gain > b.gain for a, b in itertools.pairwise(parts))


@given(heads=st.lists(UTILITIES, min_size=1, max_size=4), data=st.data())
def test_no_division_loses_less_on_the_hulls(heads: list[list[int]], data: st.DataObject) -> None:
    budget = data.draw(st.integers(0, sum(map(len, heads))))
    units = spend([curve(each) for each in heads], budget)
    assert units.sum() == budget
    saved = [np.concatenate([[0], np.cumsum(pooled(each))]) for each in heads]

    def saving(division: tuple[int, ...]) -> float:
        return float(sum(each[n] for each, n in zip(saved, division, strict=True)))

    divisions = itertools.product(*(range(len(each) + 1) for each in heads))
    best = max(saving(division) for division in divisions if sum(division) == budget)
    assert saving(tuple(map(int, units))) == pytest.approx(best)
    corners = [{0, *itertools.accumulate(part.units for part in parts_of(curve(each)))} for each in heads]
    if all(int(n) in each for n, each in zip(units, corners, strict=True)):  # there the true losses are the hulls'
        true = [np.concatenate([[0], np.cumsum(each)]) for each in heads]
        reached = sum(int(each[n]) for each, n in zip(true, units, strict=True))
        divisions = itertools.product(*(range(len(each) + 1) for each in heads))
        assert reached == max(
            sum(int(each[n]) for each, n in zip(true, division, strict=True))
            for division in divisions
            if sum(division) == budget
        )


@given(heads=st.lists(UTILITIES, min_size=1, max_size=4))
def test_a_larger_budget_takes_nothing_away(heads: list[list[int]]) -> None:
    before = np.zeros(len(heads), int)
    for budget in range(sum(map(len, heads)) + 1):
        units = spend([curve(each) for each in heads], budget)
        assert (units >= before).all()
        before = units


@given(heads=st.lists(UTILITIES, min_size=1, max_size=4), data=st.data())
def test_a_scorer_that_knows_keeps_the_best_of_all_heads(heads: list[list[int]], data: st.DataObject) -> None:
    sorted_heads = [sorted(each, reverse=True) for each in heads]
    budget = data.draw(st.integers(0, sum(map(len, heads))))
    units = spend([curve(each) for each in sorted_heads], budget)
    kept = sorted(utility for each, n in zip(sorted_heads, units, strict=True) for utility in each[: int(n)])
    assert kept == sorted(utility for each in heads for utility in each)[sum(map(len, heads)) - budget :]


@given(
    heads=st.lists(st.tuples(UTILITIES, st.sampled_from([1, 2, 5])), min_size=1, max_size=3), budget=st.integers(0, 40)
)
def test_bytes_are_never_overspent_and_spent_where_they_save_most(heads: list, budget: int) -> None:
    curves = [curve(utilities, size) for utilities, size in heads]
    units = spend(curves, budget)
    spent = sum(int(n) * each.unit_bytes for n, each in zip(units, curves, strict=True))
    whole = sum(len(utilities) * size for utilities, size in heads)
    assert spent <= budget
    assert spent > min(budget, whole) - max(size for _, size in heads)
    relaxed = 0.0  # no division saves more than the relaxed one: by gain per byte, the last one in part
    left = budget
    for gain, price in sorted(((g / s, s) for u, s in heads for g in pooled(u)), reverse=True):
        relaxed += gain * min(price, left)
        left -= min(price, left)
    saved = sum(pooled(u)[: int(n)].sum() for (u, _), n in zip(heads, units, strict=True))
    dearest = max((pooled(u).max() for u, _ in heads), default=0.0)
    assert relaxed - len(heads) * dearest - 1e-9 <= saved <= relaxed + 1e-9


def test_a_head_whose_scorer_knows_nothing_keeps_all_or_nothing() -> None:
    """One knows the order of its utilities, the other draws lots: its hull is one straight line."""
    rng = np.random.default_rng(3)
    utilities = np.sort(rng.exponential(size=400))[::-1]
    known = Curve(np.arange(401), np.concatenate([[0], np.cumsum(utilities[::-1])])[::-1])
    unknown = Curve(np.arange(401), np.linspace(known.loss_P[0], 0, 401))
    assert len(parts_of(unknown)) == 1
    better = int((utilities > utilities.mean()).sum())
    assert spend([known, unknown], better).tolist() == [better, 0]
    assert spend([known, unknown], better + 400).tolist() == [better, 400]


def test_heads_that_gain_alike_get_alike() -> None:
    flat = Curve(np.array([0, 10, 40]), np.array([8.0, 6.0, 0.0]))
    assert spend([flat] * 3, 60).tolist() == [20, 20, 20]
    assert spend([flat] * 3, 61).tolist() == [21, 20, 20]


# -- the allocator -------------------------------------------------------------------------------------------------


def stored(folder: Path, losses_BLKG: npt.NDArray[np.float64], lengths: tuple[int, ...] = (64,)) -> Path:
    path = folder / "profile.json"
    shares_G = np.linspace(0, 1, losses_BLKG.shape[-1])
    layers = tuple(range(losses_BLKG.shape[1]))
    made_for = MadeFor(WEIGHTS, "random", {"seed": 0})
    write_profile(Profile(made_for, lengths, layers, shares_G, losses_BLKG.astype(np.float32)), path)
    return path


def origin_of(layers: int, entry_bytes: tuple[int, ...] = ()) -> Origin:
    return Origin(tuple(range(layers)), entry_bytes or (1,) * layers, "random", {"seed": 0}, WEIGHTS)


def zeros(layers: int, heads: int, count: int) -> list[Floats]:
    return [np.zeros((heads, count), np.float32) for _ in range(layers)]


LINE = np.linspace(1, 0, 17)


def test_constant_utilities_are_divided_evenly(tmp_path: Path) -> None:
    allocator = LuKv(stored(tmp_path, np.broadcast_to(LINE, (1, 3, 2, 17))))
    assert set(in_a_row(allocator.kept(0.7, zeros(3, 2, 100), origin_of(3)))) == {30}


def test_the_head_that_loses_more_keeps_more(tmp_path: Path) -> None:
    losses = np.stack([LINE, 3 * LINE])[None, None]
    allocator = LuKv(stored(tmp_path, losses), floor=0.05)
    assert in_a_row(allocator.kept(0.5, zeros(1, 2, 100), origin_of(1))) == [5, 95]
    assert in_a_row(allocator.kept(0.3, zeros(1, 2, 100), origin_of(1))) == [40, 100]


def test_bytes_count_and_not_entries(tmp_path: Path) -> None:
    """Entries of the first layer save as much, and take four times the bytes."""
    allocator = LuKv(stored(tmp_path, np.broadcast_to(LINE, (1, 2, 1, 17))), floor=0.1)
    first, second = in_a_row(allocator.kept(0.5, zeros(2, 1, 100), origin_of(2, (4, 1))))
    assert second == 100
    assert 4 * first + second == 4 * 50 + 50 - (4 * 50 + 50 - 100) % 4


@pytest.mark.parametrize("count", [1, 15, 16, 17, 300])
@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.8])
def test_whole_pages_are_no_more_than_an_even_division_takes(tmp_path: Path, count: int, ratio: float) -> None:
    path = tmp_path / "profile.json"
    write_profile(profile(3, 2, "random", {"seed": 0}), path)
    kept = in_a_row(LuKv(path, page=16).kept(ratio, zeros(3, 2, count), origin_of(3)))
    even = in_a_row(compression_of("random", ratio).allocator.kept(ratio, zeros(3, 2, count), origin_of(3)))
    assert sum(-(-n // 16) for n in kept) == sum(-(-n // 16) for n in even)
    assert sum(kept) >= sum(even) or count % 16  # a head that keeps all may leave its last page in part
    assert all(n % 16 == 0 or n == count for n in kept)


def test_a_curve_counts_the_entries_of_a_page_and_not_its_room() -> None:
    """Of 20 entries, two pages hold 16 and 4: whoever has the first has lost no more than the last four are worth."""
    one = curve_of(SHARES_G := np.linspace(0, 1, 21), 1 - SHARES_G, (20, 20, 1), page=16, entry_bytes=3)
    assert (one.units_P.tolist(), one.unit_bytes) == ([1, 2], 48)
    assert np.allclose(one.loss_P, [0.2, 0.0])
    one = curve_of(SHARES_G, 1 - SHARES_G, (20, 20, 3), page=1, entry_bytes=3)
    assert one.units_P.tolist() == list(range(3, 21))
    assert np.allclose(one.loss_P, 1 - one.units_P / 20)


def test_no_head_is_below_its_floor_or_what_is_required_of_it(tmp_path: Path) -> None:
    losses = np.stack([LINE, 0 * LINE])[None, None]
    scores = zeros(1, 2, 100)
    path = stored(tmp_path, losses)
    assert in_a_row(LuKv(path, floor=0.0).kept(0.6, scores, origin_of(1))) == [79, 1]
    assert in_a_row(LuKv(path, floor=0.08).kept(0.6, scores, origin_of(1))) == [72, 8]
    assert in_a_row(LuKv(path, floor=1.0).kept(0.6, scores, origin_of(1))) == [40, 40]
    scores[0][1, -12:] = REQUIRED
    assert in_a_row(LuKv(path, floor=0.08).kept(0.6, scores, origin_of(1))) == [68, 12]


def test_a_context_is_divided_as_those_of_its_length(tmp_path: Path) -> None:
    short, long = np.stack([LINE, 2 * LINE])[None], np.stack([2 * LINE, LINE])[None]
    allocator = LuKv(stored(tmp_path, np.stack([short, long]), (100, 400)), floor=0.05)
    for count, first in ((20, 1), (199, 10), (200, 10), (201, 190), (4000, 3800)):  # 200 is as near by ratio to both
        kept = in_a_row(allocator.kept(0.5, zeros(1, 2, count), origin_of(1)))
        assert kept[0] == first
        assert sum(kept) == 2 * (count - (count + 1) // 2)


def test_a_scale_of_all_losses_changes_nothing(tmp_path: Path) -> None:
    one = profile(4, 2, "random", {"seed": 0})
    path = tmp_path / "profile.json"
    found = []
    for factor in (1.0, 0.25, 1024.0):
        write_profile(dataclasses.replace(one, losses_BLKG=one.losses_BLKG * np.float32(factor)), path)
        found.append(in_a_row(LuKv(path).kept(0.7, zeros(4, 2, 200), origin_of(4))))
    assert found[0] == found[1] == found[2]


def test_the_division_loses_less_than_an_even_one(tmp_path: Path) -> None:
    one = profile(4, 2, "random", {"seed": 0})
    path = tmp_path / "profile.json"
    write_profile(one, path)

    def loss(kept: list[int]) -> float:
        curves = one.losses_of(256).reshape(8, -1)
        return sum(float(np.interp(n / 256, one.shares_G, each)) for n, each in zip(kept, curves, strict=True))

    for ratio in (0.5, 0.8, 0.9):
        kept = in_a_row(LuKv(path).kept(ratio, zeros(4, 2, 256), origin_of(4)))
        assert loss(kept) < loss([sum(kept) // 8] * 8)


# -- profiles ------------------------------------------------------------------------------------------------------


def test_a_profile_is_read_as_it_was_written(tmp_path: Path) -> None:
    one = profile(3, 2, "snap", {"window": 32, "pool": "max", "share": 0.02})
    write_profile(one, tmp_path / "one.json")
    again = read_profile(tmp_path / "one.json", one.made_for)
    assert again.made_for == one.made_for
    assert (again.lengths, again.layers) == (one.lengths, one.layers)
    assert np.array_equal(again.shares_G, one.shares_G)
    assert again.losses_BLKG.dtype == np.float32
    assert np.array_equal(again.losses_BLKG, one.losses_BLKG)
    write_profile(again, tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "one.json").read_bytes()


@pytest.mark.parametrize(
    ("other", "fault"),
    [
        ({"weights": "others"}, "weights 'weights of a test', this is 'others'"),
        ({"weights": None}, "weights 'weights of a test', this is None"),
        ({"scorer": "knorm"}, "scorer 'snap', this is 'knorm'"),
        ({"params": {"window": 64}}, r"params \{'window': 32\}, this is \{'window': 64\}"),
        ({"settings": "of another"}, "settings 'of a test', this is 'of another'"),
    ],
)
def test_a_profile_of_something_else_is_refused_and_both_are_named(tmp_path: Path, other: dict, fault: str) -> None:
    one = profile(2, 2, "snap", {"window": 32})
    write_profile(one, tmp_path / "one.json")
    with pytest.raises(ParamsError, match=fault) as caught:
        read_profile(tmp_path / "one.json", dataclasses.replace(one.made_for, **other))
    assert caught.value.param == "profile"


def test_a_method_with_a_profile_of_another_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    write_profile(profile(2, 2, "knorm"), path)
    made = contexts(2, 2, 40)

    def choose(name: str, weights: str | None, heads: int = 2, layers: int = 2, **words: object) -> None:
        compression = compression_of(name, 0.5, allocator="lukv", profile=path, **words)
        made = contexts(layers, heads, 40)
        compression.choose(candidates(compression, made), weights)

    assert made
    choose("knorm", WEIGHTS)
    choose("knorm", WEIGHTS, protect_first=4)  # what is protected is no part of the scorer
    with pytest.raises(ParamsError, match="scorer 'knorm', this is 'keydiff'"):
        choose("keydiff", WEIGHTS)
    with pytest.raises(ParamsError, match="weights 'weights of a test', this is 'other'"):
        choose("knorm", "other")
    with pytest.raises(ParamsError, match="this is None"):
        choose("knorm", None)
    with pytest.raises(ParamsError, match="2 KV heads of 2 layers; layer 0 has 3"):
        choose("knorm", WEIGHTS, heads=3)
    with pytest.raises(ParamsError, match="layer 2 has 2"):
        choose("knorm", WEIGHTS, layers=3)


def broken(**changes: object) -> str:
    good = {
        "format": "kvloom-lu-profile",
        "version": 1,
        "made_for": {"weights": "w", "scorer": "s", "params": {}, "settings": ""},
        "lengths": [64],
        "layers": [0],
        "shares": [0, 0.5, 1],
        "losses": [[[[2, 1, 0]]]],
    }
    return json.dumps({key: value for key, value in (good | changes).items() if value is not None})


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "is no profile"),
        ("[1]", "does not say `kvloom-lu-profile`"),
        ("[" * 100_000, "is no profile"),
        (broken(format="other"), "does not say `kvloom-lu-profile`"),
        (broken(version=2), "is of version 2, this reads 1"),
        (broken(made_for={"weights": "w"}), "is no profile"),
        (broken(made_for={"weights": "w", "scorer": 3}), "does not say what for"),
        (broken(lengths=[]), "lengths are not ascending"),
        (broken(lengths=[64, 64]), "lengths are not ascending"),
        (broken(layers=[1, 0]), "layers are not ascending"),
        (broken(shares=[0, 0.5]), "shares do not ascend"),
        (broken(shares=[0.5, 0, 1]), "shares do not ascend"),
        (broken(shares=3), "shares do not ascend"),
        (broken(losses=[[[[2, 1]]]]), "losses of shape"),
        (broken(losses=[[[[2, 1, 0], [1]]]]), "is no profile"),
        (broken(losses=[[[[2, 1, 1]]]]), "not 0 where everything is kept"),
        (broken(losses=[[[[1, 2, 0]]]]), "losses rise"),
        (broken(losses=[[[[float("nan"), 1, 0]]]]), "no numbers"),
        (broken(losses=[[[["x", 1, 0]]]]), "is no profile"),
        (broken(losses=None), "is no profile"),
    ],
)
def test_a_file_that_is_no_profile_is_refused(tmp_path: Path, text: str, fault: str) -> None:
    path = tmp_path / "broken.json"
    path.write_text(text)
    with pytest.raises(DataFileError, match=fault):
        read_profile(path)
    with pytest.raises(DataFileError, match="cannot be read"):
        read_profile(tmp_path / "absent.json")
