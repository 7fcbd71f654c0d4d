"""Ratios, goals and shares of the limits; what makes a claim about speed hold or not."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import judging
from bench.cells import DENSE, GROUPS, OF_8B, SIZES, cells
from bench.claims import SPEED, Compared, claim_of, decode, peak_memory, prefill, shared_prefix, throughput
from bench.comparison import OURS, Comparison, Counted
from bench.harness import at_least, at_most, worst_of
from bench.peers.base import PEERS
from bench.random_models import NAMES
from kvloom.bench.workloads import SharedPrefix
from tests.measure.fake_comparison import FACTS, comparison

BATCH = "16 x (512 in + 64 out)"


def test_the_best_peer_is_the_one_with_the_highest_median() -> None:
    found = comparison({BATCH: {"kvloom": [30.0, 60.0, 45.0], "fast": [20.0, 30.0, 40.0], "slow": [9.0] * 3}}, "g")
    ratio = found.ratio("g", BATCH)
    assert ratio is not None
    assert (ratio.ours, ratio.best, ratio.peer, ratio.value) == (45.0, 30.0, "fast", 1.5)
    assert (ratio.low, ratio.high) == (45 / 40, 60 / 30)


def test_a_peer_counts_with_the_rounds_that_it_has() -> None:
    found = comparison({BATCH: {"kvloom": [30.0, 50.0], "once": [20.0], "slow": [10.0, 20.0]}}, "g")
    ratio = found.ratio("g", BATCH)
    assert ratio is not None
    assert (ratio.peer, ratio.value, ratio.low, ratio.high) == ("once", 1.5, 1.5, 1.5)


def test_a_variant_takes_part_where_it_may_win() -> None:
    plain, default = PEERS["llama.cpp-plain"], PEERS["llama.cpp"]
    assert plain.takes_part("streams")
    assert not plain.takes_part("multi-turn")
    assert default.takes_part("multi-turn")


def test_kvloom_is_loaded_first_and_so_sets_no_pace() -> None:
    assert next(iter(PEERS)) == OURS


def test_a_machine_that_slows_down_for_a_round_leaves_the_ratio() -> None:
    found = comparison({BATCH: {"kvloom": [30.0, 60.0, 20.0], "fast": [20.0, 40.0, 10.0]}}, "g").ratio("g", BATCH)
    assert found is not None
    assert (found.value, found.ours, found.best) == (1.5, 30.0, 20.0)


def test_contenders_are_near_the_best_peer_in_one_figure() -> None:
    made = comparison(
        {
            "prefill 9": {"kvloom": [900.0], "a": [90.0], "b": [73.0], "c": [10.0], "d": [10.0]},
            "decode after 9": {"kvloom": [900.0], "a": [10.0], "b": [10.0], "c": [30.0], "d": [23.0]},
        },
        "g",
    )
    assert made.contenders("g", made.figures("g")) == {"kvloom", "a", "b", "c"}
    assert made.contenders("g", ["prefill 9"]) == {"kvloom", "a", "b"}
    assert made.contenders("g", []) == {"kvloom"}


def test_without_a_peer_no_speed_claim_holds() -> None:
    alone = comparison({BATCH: {"kvloom": [1e9]}}, "together")
    outcome = throughput.judge(alone)
    assert (outcome.holds, outcome.value) == (False, 0.0)


@pytest.mark.parametrize(("ours", "holds"), [(1.39, False), (1.41, True)])
def test_throughput_holds_from_its_goal_on(ours: float, holds: bool) -> None:
    outcome = throughput.judge(comparison({BATCH: {"kvloom": [ours], "fast": [1.0], "slow": [0.5]}}, "together"))
    assert outcome.holds is holds
    assert outcome.details["peers"] == ["fast", "slow"]


def streams(kind: str, ours: dict[int, float], theirs: float = 1.0) -> Comparison:
    figures = {f"{kind} {length}": {"kvloom": [rate], "fast": [theirs]} for length, rate in ours.items()}
    return comparison(figures, "streams")


@pytest.mark.usefixtures("smollm2")
@pytest.mark.parametrize(("share", "holds"), [(0.49, False), (0.51, True)])
def test_decode_needs_its_share_of_the_bandwidth(share: float, holds: bool) -> None:
    file_bytes = 98_362_432
    rate = share * 25e9 / (file_bytes + 512 * FACTS.kv_token_bytes)
    outcome = decode.judge(streams("decode after", {512: rate}))
    assert [check.holds for check in outcome.checks] == [True, holds]


@pytest.mark.usefixtures("smollm2")
def test_prefill_is_as_good_as_its_worst_cell() -> None:
    outcome = prefill.judge(streams("prefill", {512: 1e6, 8000: 1.4e6}, theirs=1e6))
    worst = min(outcome.checks, key=lambda check: check.score)
    assert (worst.name, worst.goal) == ("prefill 512", 1.05)
    assert outcome.value == pytest.approx(1 / 1.05, abs=1e-3)


def test_peak_memory_compares_with_the_least() -> None:
    made = comparison({}, "streams", {"512": {"kvloom": 100, "big": 900, "small": 101}, "2048": {"kvloom": 100}})
    made.limits = made.limits[:1]
    outcome = peak_memory.judge(made)
    assert [check.name for check in outcome.checks] == ["512"]
    assert outcome.holds
    worse = [
        dataclasses.replace(each, peak_bytes=each.peak_bytes * (3 if each.peer == "kvloom" else 1))
        for each in made.peaks
    ]
    made.peaks = worse
    assert not peak_memory.judge(made).holds


def test_a_prefix_that_is_read_by_every_request_is_noticed() -> None:
    cell = next(each.workload for each in cells(frozenset({"shared-prefix"}), quick=False))
    assert isinstance(cell, SharedPrefix)
    made = comparison({cell.name: {"kvloom": [10.0], "fast": [1.0]}}, "shared-prefix")
    once, apart = shared_prefix.expected_bytes(cell, FACTS.kv_token_bytes)
    assert 5 < apart / once < cell.requests
    for read, holds in ((once, True), (apart, False), (0, False)):
        before, after = {"decode_kv_read_bytes": 5}, {"decode_kv_read_bytes": 5 + read}
        made.counted = [Counted("shared-prefix", cell.name, before, after)]
        assert shared_prefix.judge(made).holds is holds


def test_every_speed_claim_finds_its_cells() -> None:
    for name in SPEED:
        claim = claim_of(name)
        if isinstance(claim, Compared):
            assert claim.groups <= set(GROUPS)
            assert cells(claim.groups, quick=True)


@pytest.mark.parametrize("quick", [False, True])
def test_cells_grow_and_models_come_by_size(quick: bool) -> None:
    chosen = cells(frozenset(GROUPS), quick, list(SIZES))
    order = [model for models in SIZES.values() for model in models]
    assert list(dict.fromkeys(cell.model for cell in chosen)) == order
    for model in order:
        wanted = [cell.workload.kv_tokens for cell in chosen if cell.model == model]
        assert wanted == sorted(wanted)
    by_group = {cell.group: cell.model for cell in chosen}
    assert all(by_group[cell.group] == cell.model for cell in chosen), "figures of one group are of one model"


def test_large_models_are_measured_when_asked_for() -> None:
    groups = frozenset(GROUPS)
    assert {cell.model for cell in cells(groups, quick=False)} == set(SIZES["small"])
    (largest,) = cells(groups, quick=False, sizes=["8b"])
    assert (largest.model, largest.alone) == (OF_8B, True)
    taking = {name for name, entry in PEERS.items() if entry.takes_part(largest.group)}
    assert taking == {"kvloom", "openvino", "llama.cpp"}, "float32 copies of large models are not made"


def test_small_copies_in_float32_are_made_for_every_small_model() -> None:
    groups = {cell.group for cell in cells(frozenset(GROUPS), quick=False)}
    assert all(PEERS[name].takes_part(group) for name in ("vllm", "transformers") for group in groups)
    large = set(GROUPS) - groups
    assert large
    assert not any(PEERS["vllm"].takes_part(group) for group in large)


def test_random_models_of_cells_can_be_made() -> None:
    assert {cell.model for cell in cells(frozenset(GROUPS), False, ["1b", "3b", "8b"])} <= set(NAMES)


def test_a_larger_model_has_goals_and_limits_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[tuple[str, str]] = []

    def share(made: Comparison, model: str, figure: str, group: str) -> float:
        found.append((model, group))
        return 0.7

    monkeypatch.setattr(judging, "share_of_limit", share)
    made = comparison({"decode after 512": {"kvloom": [2.0], "fast": [1.0]}}, "streams")
    larger = comparison({"decode after 512": {"kvloom": [1.35], "fast": [1.0]}}, "streams-8b")
    made.samples += [dataclasses.replace(sample, model=OF_8B) for sample in larger.samples]
    outcome = decode.judge(made)
    assert found == [(DENSE, "streams"), (OF_8B, "streams-8b")]
    by_name = {check.name: (check.value, check.goal) for check in outcome.checks}
    assert by_name == {
        "decode after 512": (2.0, 1.6),
        "decode after 512, of the limit": (0.7, 0.5),
        "decode after 512 (8b)": (1.35, 1.4),
        "decode after 512, of the limit (8b)": (0.7, 0.85),
    }
    assert not outcome.holds


def test_what_one_claim_files_of_a_shared_sitting() -> None:
    made = comparison({BATCH: {"kvloom": [1.0], "fast": [1.0]}}, "together", {BATCH: {"kvloom": 1}})
    assert len(made.of(frozenset({"together"})).samples) == 2
    other = made.of(frozenset({"streams"}))
    assert (other.samples, other.peaks) == ([], [])


@given(st.floats(0.01, 100), st.floats(0.01, 100))
def test_scores_reach_one_exactly_where_checks_hold(value: float, goal: float) -> None:
    assert at_least("x", value, goal, "").holds == (value >= goal)
    assert at_most("x", value, goal, "").holds == (value <= goal)


def test_the_worst_check_decides() -> None:
    checks = [at_least("a", 3.0, 1.0, ""), at_most("b", 4.0, 2.0, "")]
    outcome = worst_of("demo", checks, {})
    assert (outcome.value, outcome.holds) == (0.5, False)
    assert worst_of("demo", checks[:1], {}).holds
