"""The offline comparison of retention policies: small enough to know what is right."""

from __future__ import annotations

import gzip
import json
import math
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.claims import oracle_gap
from bench.retention_cases import AGENTS, RECORDED, made, recorded
from bench.retention_gaps import Gaps, capacity, live_blocks
from bench.retention_sim import Cell, Replay, Simulated, closed
from kvloom.policy.cost import PrefillCost
from kvloom.policy.retention import POLICIES
from kvloom.policy.retention.lru import LeastRecentlyUsed
from kvloom.simulate.traces.multi_turn import MultiTurn
from kvloom.simulate.traces.trace import Request, Trace

COST = PrefillCost(0.0, 1e-3, 2e-5)
FLAT = PrefillCost(0.0, 1.0 / 16, 0.0)


def trace_of(requests: Sequence[tuple[float, tuple[int, ...]]], answers: int = 0) -> Trace:
    """Requests by their time and blocks, of which the last ``answers`` are what is answered."""
    made = [
        Request(now, number, "answer", 16 * (len(blocks) - answers), 16 * answers, blocks)
        for number, (now, blocks) in enumerate(requests)
    ]
    return Trace("by hand", 16, tuple(made))


def fewest_seconds(trace: Trace, capacity: int, cost: PrefillCost) -> float:
    """Whatever can be evicted is tried."""
    states, seen = {frozenset[int](): 0.0}, set[int]()
    for request in trace.requests:
        positions = {block: 16 * index for index, block in enumerate(request.blocks)}
        after: dict[frozenset[int], float] = {}
        for cached, spent in states.items():
            missing = set(request.blocks) - cached
            total = spent + math.fsum(cost.block(positions[block], 16) for block in missing & seen)
            others = cached - set(request.blocks)
            excess = max(0, len(cached | missing) - capacity)
            for gone in combinations(sorted(others), excess):
                state = (cached | missing) - set(gone)
                after[state] = min(total, after.get(state, math.inf))
        states = after
        seen.update(request.blocks)
    return min(states.values())


def small(seed: int, longest: int) -> Trace:
    """Four contexts that begin alike."""
    chance = random.Random(seed)
    contexts = [(0, *range(10 * n, 10 * n + longest - 1)) for n in range(1, 5)]
    return trace_of([(float(n), chance.choice(contexts)[: chance.randint(1, longest)]) for n in range(9)])


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), room=st.integers(0, 2))
def test_foresight_is_optimal_where_all_costs_the_same(seed: int, room: int) -> None:
    trace = small(seed, 3)
    least = fewest_seconds(trace, 3 + room, FLAT)
    assert Replay(trace, FLAT).oracle(3 + room).seconds == pytest.approx(least)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), room=st.integers(0, 2))
def test_nothing_beats_the_bound_and_foresight_is_close(seed: int, room: int) -> None:
    trace = small(seed, 3)
    replay, least = Replay(trace, COST), fewest_seconds(trace, 3 + room, COST)
    foresight = replay.oracle(3 + room).seconds
    assert 0.9 * least - 1e-9 <= replay.least_seconds(3 + room) <= least * (1 + 1e-9)
    assert least * (1 - 1e-9) <= foresight <= 1.5 * least


def test_gaps_and_what_an_endless_cache_holds() -> None:
    trace = trace_of([(0.0, (1, 2)), (1.0, (3,)), (2.0, (1, 4)), (3.0, (1, 2))])
    gaps = Gaps.of(trace)
    found = list(zip(gaps.index_G.tolist(), gaps.start_G.tolist(), gaps.stop_G.tolist(), strict=True))
    assert sorted(found) == [(0, 0, 2), (0, 2, 3), (1, 0, 3)]
    assert live_blocks(trace, gaps).tolist() == [2, 3, 3, 2]
    assert [capacity(trace, gaps, share) for share in (0.2, 1.0)] == [2, 3]


def test_what_is_answered_is_kept_but_spares_nothing_where_it_is_answered_again() -> None:
    trace = trace_of([(0.0, (1, 2)), (1.0, (1, 2)), (2.0, (1, 2, 3))], answers=1)
    assert sorted(Gaps.of(trace).index_G.tolist()) == [0, 0, 1]
    assert Replay(trace, FLAT).simulate(LeastRecentlyUsed(), 3) == Simulated(0.0, 3.0, 4.0, 3, 4)


def test_a_replay_by_hand() -> None:
    replay = Replay(trace_of([(float(n), blocks) for n, blocks in enumerate([(1, 2), (3,), (1, 2), (3,)])]), FLAT)
    tight = replay.simulate(LeastRecentlyUsed(), 2)
    assert tight == Simulated(seconds=2.0, saved_s=1.0, total_s=6.0, found=1, asked=6)
    assert (tight.hit_rate, tight.savings) == (1 / 6, 1 / 6)
    assert replay.simulate(LeastRecentlyUsed(), 3) == replay.endless() == Simulated(0.0, 3.0, 6.0, 3, 6)
    with pytest.raises(ValueError, match="2 blocks for a pool of 1"):
        replay.simulate(LeastRecentlyUsed(), 1)


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_replays_conversations_the_same_way_twice(name: str) -> None:
    trace = MultiTurn(8, lengths=(384, 700)).trace(1)
    replay = Replay(trace, COST)
    first, again = (replay.policy(name, trace.longest + 20) for _ in range(2))
    assert first == again
    assert 0 < first.found < first.asked
    assert replay.least_seconds(trace.longest + 20) <= replay.oracle(trace.longest + 20).seconds <= first.seconds


def cell(lru: float, own: float, oracle: float, name: str = "one") -> Cell:
    results = {"lru": lru, "survival": own, "oracle": oracle}
    return Cell(name, 0.4, {each: [Simulated(seconds, 0.0, 1.0, 0, 1)] for each, seconds in results.items()})


def test_distance_closed() -> None:
    assert cell(10.0, 8.0, 5.0).closed("survival") == pytest.approx(0.4)
    assert cell(10.0, 8.0, 5.0).ratio("survival") == 1.25
    assert cell(10.0, 12.0, 5.0).closed("survival") == pytest.approx(-0.4)
    assert cell(5.0, 5.0, 5.0).closed("survival") == 0.0
    assert cell(0.0, 0.0, 0.0).closed("survival") == 0.0
    both = [cell(10.0, 8.0, 5.0), cell(1000.0, 1000.0, 900.0)]
    assert closed(both, "survival") == pytest.approx(0.2 / 0.6)


class TestOracleGap:
    def test_half_of_the_distance_is_a_claim(self) -> None:
        holds = oracle_gap.outcome_of([cell(10.0, 7.5, 5.0)], True, [])
        assert holds.holds
        assert holds.details["losses"] == []
        fails = oracle_gap.outcome_of([cell(10.0, 7.5, 5.0), cell(10.0, 11.0, 5.0, "two")], True, [])
        assert not fails.holds
        assert fails.details["losses"] == ["two, 40%"]

    def test_a_small_version(self) -> None:
        (first, *_) = oracle_gap.cells_of([*made(1, sessions=10, tasks=2)][:1])
        assert first.results.keys() == {"lru", "survival", "oracle"}
        assert first.ratio("oracle") > 1

    def test_without_recorded_traces_it_does_not_hold(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TRACES_DIR", str(tmp_path))
        monkeypatch.setattr(oracle_gap, "made", lambda seeds: made(1, sessions=8, tasks=1))
        monkeypatch.setattr(oracle_gap, "GOAL", -9.0)
        outcome = oracle_gap.measure(quick=False)
        assert not outcome.holds
        assert outcome.details["cells"]["recorded cases"]["value"] == 0


def test_cases_are_there_when_their_files_are(tmp_path: Path) -> None:
    assert list(recorded(tmp_path)) == []
    line = {"timestamp": 0, "input_length": 600, "output_length": 3, "hash_ids": [4, 9]}
    for kind in ("conversation", "synthetic"):
        (tmp_path / f"mooncake_{kind}_trace.jsonl").write_text(json.dumps(line))
    session = {"block_size": 64, "tool_tokens": 0, "system_tokens": 0, "requests": [{"t": 0, "in": 64, "out": 1}]}
    (tmp_path / AGENTS).write_bytes(gzip.compress(json.dumps(session).encode()))
    found = list(recorded(tmp_path))
    assert len(found) == RECORDED
    assert [len(trace.requests) for case in found for trace in case.traces()] == [1] * RECORDED


def test_long_contexts_are_worth_more_than_many_hits() -> None:
    """Long contexts come back after a long time, short ones are many and soon come back: AsymCache spends less time on
    recomputing than LRU, although it finds fewer blocks.
    """
    requests, now = [], 0.0
    for number in range(240):
        now += 1.0
        if number % 12 == 0:
            long = number // 12 % 2
            requests.append((now, tuple(range(1000 * long, 1000 * long + 200))))
        else:
            short = 10_000 + 100 * (number % 6)
            requests.append((now, tuple(range(short, short + 40))))
    replay = Replay(trace_of(requests), PrefillCost(0.0, 1e-3, 1e-5))
    lru, asym = (replay.policy(name, 460) for name in ("lru", "asymcache"))
    assert asym.found < lru.found
    assert asym.seconds < lru.seconds


def test_the_command_prints_tables(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "bench.retention_sim", "--policies", "fifo", "--cases", "conversation"]
    line = {"timestamp": 0, "input_length": 600, "output_length": 3, "hash_ids": [4, 9]}
    (tmp_path / "mooncake_conversation_trace.jsonl").write_text(json.dumps(line))
    environment = os.environ | {"TRACES_DIR": str(tmp_path)}
    out = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=True).stdout
    rows = [line.split("|")[1].strip() for line in out.splitlines() if line.startswith("| ")]
    assert rows == [
        *["policy", "lru", "fifo", "oracle", "endless cache", "bound"] * 3,
        "policy",
        "lru",
        "fifo",
        "oracle",
    ]
