"""Ratios, goals and shares of the limits; what makes a claim about speed hold or not."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.cells import DENSE, GROUPS, HYBRID, cells
from bench.claims import SPEED, Compared, claim_of, decode, peak_memory, prefill, shared_prefix, throughput
from bench.comparison import OURS, Comparison, Counted
from bench.harness import at_least, at_most, worst_of
from bench.peers.base import PEERS
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
            "prefill 9": {"kvloom": [900.0], "a": [90.0], "b": [61.0], "c": [10.0], "d": [10.0]},
            "decode after 9": {"kvloom": [900.0], "a": [10.0], "b": [10.0], "c": [30.0], "d": [19.0]},
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


def test_cells_grow_and_the_dense_model_comes_first() -> None:
    chosen = cells(frozenset(GROUPS), quick=False)
    models = [cell.model for cell in chosen]
    assert models == sorted(models, key=lambda model: model != DENSE)
    for model in (DENSE, HYBRID):
        sizes = [cell.workload.kv_tokens for cell in chosen if cell.model == model]
        assert sizes == sorted(sizes)


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
