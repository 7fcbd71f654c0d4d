"""Every scorer with every allocator that it goes with, over contexts of every shape."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kvloom.errors import ParamsError
from kvloom.eval.identity import policy_digest
from kvloom.eval.policy import parse_policy
from kvloom.policy.compression import METHODS, compression_of
from kvloom.policy.compression.allocators import ALLOCATORS, all_kinds
from kvloom.policy.compression.base import REQUIRED, Choice, LayerContext, Scale
from kvloom.policy.compression.methods import beside_kinds
from kvloom.policy.compression.uniform import kept_of
from kvloom.policy.compression.words import words_of
from made_contexts import LENGTHS, SHAPES, WEIGHTS, candidates, contexts, files

NAMES = [name for name, method in METHODS.items() if method.ratio is None]
PAIRS = [(s, a) for s in NAMES for a, each in ALLOCATORS.items() if each.compares <= METHODS[s].scale]
RATIOS = (0.0, 0.3, 0.5, 0.9, 1.0)
BESIDE = {"": {}, "critical": {"critical": 0.5}, "both": {"critical": 0.3, "demote": 0.7}}
beside_each = pytest.mark.parametrize("beside", BESIDE.values(), ids=BESIDE)


def chosen(scorer: str, ratio: float, made: list[LayerContext], **words: object) -> list[Choice]:
    compression = compression_of(scorer, ratio, **words)
    return compression.choose(candidates(compression, made), WEIGHTS)


def words_for(scorer: str, allocator: str, folder: Path, layers: int, heads: int) -> dict[str, object]:
    default = METHODS[scorer].scorer()
    params = dict(words_of(default))
    words = files(folder, layers, heads, scorer, params).get(allocator, {})
    return {"allocator": allocator, **words}


def feasible(allocator: str, ratio: float, made: list[LayerContext], scorer: str) -> bool:
    """DepthKV's first layer loses nothing, and no other one more than 0.7, nor what is required."""
    if allocator != "depthkv" or ratio == 0:
        return True
    layers, count = len(made), made[0].shape[1]
    if ratio * layers > 0.7 * (layers - 1):
        return False
    even = kept_of(count, ratio)
    required = int((compression_of(scorer, ratio).scores(made[0])[0] == REQUIRED).sum())
    return count + (layers - 1) * min(even, max(required, 1)) <= layers * even


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("scorer", "allocator"), PAIRS)
@beside_each
def test_every_pair_keeps_what_an_even_division_would(
    scorer: str, allocator: str, shape: str, beside: dict, tmp_path: Path
) -> None:
    layers, heads = SHAPES[shape]
    words = words_for(scorer, allocator, tmp_path, layers, heads) | beside
    for count in LENGTHS:
        made = contexts(layers, heads, count)
        before: list[list[set[int]]] = []
        for ratio in RATIOS:
            if not feasible(allocator, ratio, made, scorer):
                with pytest.raises(ParamsError, match="cannot be had"):
                    chosen(scorer, ratio, made, **words)
                continue
            gathers = chosen(scorer, ratio, made, **words)
            assert [gather.layer for gather in gathers] == list(range(layers))
            kept = [[[int(n) for n in head] for head in gather.kept] for gather in gathers]
            sizes = [len(head) for layer in kept for head in layer]
            assert sum(sizes) == layers * heads * kept_of(count, ratio)
            assert len(sizes) == layers * heads
            assert ratio == 1 or count == 0 or min(sizes) >= 1
            assert all(head == sorted(set(head)) and set(head) <= set(range(count)) for one in kept for head in one)
            sets = [[set(head) for head in layer] for layer in kept]
            assert all(
                less <= more for a, b in zip(sets, before, strict=False) for less, more in zip(a, b, strict=True)
            ), "who removes more keeps a part of what who removes less keeps"
            before = sets


@pytest.mark.parametrize(("scorer", "allocator"), [pair for pair in PAIRS if pair[1] != "depthkv"])
@beside_each
def test_what_is_protected_stays_in_every_head(scorer: str, allocator: str, beside: dict, tmp_path: Path) -> None:
    words = words_for(scorer, allocator, tmp_path, 3, 2) | beside
    protect = {"protect_first": 4, "protect_last": 3, "protect": "20:25"}
    for ratio in (0.5, 0.8):
        for gather in chosen(scorer, ratio, contexts(3, 2, 100), **words, **protect):
            for head in gather.kept:
                assert {*range(4), *range(97, 100), *range(20, 25)} <= set(map(int, head))


def test_allocators_that_compare_more_than_scores_can_bear_are_refused() -> None:
    asked = [(s, a) for s in NAMES for a in ALLOCATORS]
    refused = [pair for pair in asked if pair not in PAIRS]
    assert ("sink_recent", "adakv") in refused
    assert ("keydiff", "xkv") in refused
    for scorer, allocator in refused:
        with pytest.raises(ParamsError, match=f"allocator `{allocator}` compares scores by") as caught:
            compression_of(scorer, 0.5, allocator=allocator)
        assert caught.value.param == "allocator"
        assert "uniform" in (caught.value.hint or "")
    with pytest.raises(ParamsError, match="has no parameter `allocator`"):
        compression_of("keep_all", allocator="adakv")


@pytest.mark.parametrize("name", [name for name in NAMES if METHODS[name].scale is Scale.SHARES])
def test_scores_that_claim_to_be_shares_are_not_negative(name: str) -> None:
    compression = compression_of(name, 0.5)
    assert all((compression.scores(one) >= 0).all() for one in contexts(3, 2, 50))


def test_words_of_different_parts_do_not_meet() -> None:
    kinds = [each.kinds for each in ALLOCATORS.values()] + [{"allocator": str}, beside_kinds()]
    others = {name: kind for each in kinds for name, kind in each.items()}
    for each in kinds:
        assert all(others[name] is kind for name, kind in each.items())  # of one name, one type
    for method in METHODS.values():
        assert not set(method.own) & set(others)
    assert set(all_kinds()) | set(beside_kinds()) | {"allocator", "ratio"} >= set(others)


@pytest.mark.parametrize(
    ("words", "fault", "param"),
    [
        ({"allocator": "best"}, "unknown allocator `best`", "allocator"),
        ({"floor": 0.1}, "allocator `uniform` has no parameter `floor`", "floor"),
        ({"allocator": "pyramid", "floor": 0.1}, "allocator `pyramid` has no parameter `floor`", "floor"),
        ({"allocator": "adakv", "floor": 1.5}, "floor must be", "floor"),
        ({"allocator": "adakv", "floor": "much"}, "floor must be of type float", "floor"),
        ({"allocator": "pyramid", "beta": 0.5}, "beta must be", "beta"),
        ({"allocator": "depthkv", "cap": 0.0}, "cap must be", "cap"),
        ({"allocator": "depthkv", "spared_middle": -1}, "spared_middle must be", "spared_middle"),
        ({"allocator": "head_classes"}, "needs gates", "gates"),
        ({"critical": 1.5}, "critical must be a share from 0 to 1", "critical"),
        ({"demote": -0.5}, "demote must be a share from 0 to 1", "demote"),
        ({"protect_first": -1}, "protect_first must be", "protect_first"),
        ({"protect": "10-20"}, "cannot read `10-20` as a span", "protect"),
        ({"protect": "+".join(["1:2"] * 1002)}, "more than 1000 spans", "protect"),
        ({"protect": f"1:{'9' * 5000}"}, "cannot read", "protect"),
        ({"protect": "20:10"}, "cannot read `20:10` as a span", "protect"),
    ],
)
def test_words_that_make_no_sense_are_refused_by_name(words: dict, fault: str, param: str) -> None:
    with pytest.raises(ParamsError, match=fault) as caught:
        compression_of("knorm", 0.5, **words)
    assert caught.value.param == param


def test_a_method_says_how_it_would_be_asked_for(tmp_path: Path) -> None:
    assert compression_of("knorm", 0.5).params == {}
    words = {"allocator": "adakv", "floor": 0.1, "protect_first": 4, "protect_last": 0, "protect": "6:9"}
    assert compression_of("knorm", 0.5, **words).params == words
    words = words_for("random", "head_classes", tmp_path, 2, 2)
    compression = compression_of("random", 0.5, **words)
    assert compression.params == {
        "seed": 0, "allocator": "head_classes", "gates": str(words["gates"]), "streaming": 384
    }  # fmt: skip
    with pytest.raises(ParamsError, match="gates must be of type Path"):  # what comes over a net opens no files
        compression_of("random", 0.5, **words | {"gates": str(words["gates"])})


@pytest.mark.parametrize(("scorer", "allocator"), PAIRS)
def test_the_judge_reads_every_pair_and_knows_its_code_and_files(scorer: str, allocator: str, tmp_path: Path) -> None:
    words = words_for(scorer, allocator, tmp_path, 2, 2)
    asked = ",".join(f"{key}={word}" for key, word in {"ratio": 0.25, **words}.items())
    policy = parse_policy(f"{scorer}:{asked}")
    assert policy.compression == compression_of(scorer, 0.25, **words)
    shown = ",".join(f"{key}={word}" for key, word in policy.params.items())
    assert parse_policy(f"{scorer}:{shown}") == policy
    before = policy_digest(policy)
    for path in tmp_path.iterdir():
        path.write_text(path.read_text() + "\n")
    assert (policy_digest(policy) != before) == (len(words) > 1)
    if allocator != "uniform":
        assert before != policy_digest(parse_policy(f"{scorer}:ratio=0.25"))


def test_an_optional_file_need_not_be_there() -> None:
    policy = parse_policy("knorm:ratio=0.25,allocator=depthkv")
    assert policy_digest(policy)
    assert "sensitivity" not in policy.params


def test_scores_of_layers_in_any_order() -> None:
    """Layers come by group: those with a window apart."""
    made = contexts(3, 2, 40)
    in_order = chosen("knorm", 0.5, made, allocator="pyramid")
    turned = chosen("knorm", 0.5, [made[2], made[0], made[1]], allocator="pyramid")
    for gather in turned:
        assert [one.tolist() for one in gather.kept] == [one.tolist() for one in in_order[gather.layer].kept]
    assert len(in_order[0].kept[0]) > len(in_order[1].kept[0]) > len(in_order[2].kept[0])


def test_what_leaves_no_room_for_protected_spans_is_refused() -> None:
    with pytest.raises(ParamsError, match="30 entries of layer 0 are protected, and only 20 would stay"):
        chosen("knorm", 0.5, contexts(2, 2, 40), protect="0:30")
    chosen("knorm", 0.5, contexts(2, 2, 40), protect="20:40")
    chosen("knorm", 0.5, contexts(2, 2, 40, first=100), protect="0:30")  # a window holds none of them
    chosen("knorm", 0.9, contexts(2, 2, 40), protect_first=30)  # as far as there is room
    assert np.array_equal(chosen("knorm", 0.9, contexts(1, 1, 40), protect_first=30)[0].kept[0], [0, 1, 2, 3])


def test_where_no_profile_ships_it_is_said_with_how_to_make_one() -> None:
    with pytest.raises(ParamsError, match="no profile ships for this model and `knorm`") as caught:
        chosen("knorm", 0.5, contexts(2, 2, 40), allocator="lukv")
    assert caught.value.hint is not None
    assert "kvloom profile lu MODEL --method knorm" in caught.value.hint
