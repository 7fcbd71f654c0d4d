"""The offline comparison of retention policies: small enough to know what is right."""

from __future__ import annotations

import math
import random
import subprocess
import sys
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.oracle import Belady, least_seconds, uses_of
from bench.retention_sim import Simulated, simulate
from bench.retention_trace import Gap, Turn, conversations, gaps, live_blocks
from kvloom.policy.cost import PrefillCost
from kvloom.policy.retention import POLICIES, Given
from kvloom.policy.retention.lru import LeastRecentlyUsed

COST = PrefillCost(0.0, 1e-3, 2e-5)
FLAT = PrefillCost(0.0, 1.0 / 16, 0.0)


def fewest_seconds(turns: Sequence[Turn], capacity: int, cost: PrefillCost) -> float:
    """Whatever can be evicted is tried."""
    states, seen = {frozenset[int](): 0.0}, set[int]()
    for turn in turns:
        positions = {block: 16 * index for index, block in enumerate(turn.blocks)}
        after: dict[frozenset[int], float] = {}
        for cached, spent in states.items():
            missing = set(turn.blocks) - cached
            total = spent + math.fsum(cost.block(positions[block], 16) for block in missing & seen)
            others = cached - set(turn.blocks)
            excess = max(0, len(cached | missing) - capacity)
            for gone in combinations(sorted(others), excess):
                state = (cached | missing) - set(gone)
                after[state] = min(total, after.get(state, math.inf))
        states = after
        seen.update(turn.blocks)
    return min(states.values())


def small(seed: int, longest: int) -> list[Turn]:
    """Four contexts that begin alike."""
    chance = random.Random(seed)
    contexts = [(0, *range(10 * n, 10 * n + longest - 1)) for n in range(1, 5)]
    return [Turn(float(n), chance.choice(contexts)[: chance.randint(1, longest)]) for n in range(9)]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), room=st.integers(0, 2))
def test_foresight_is_optimal_where_all_costs_the_same(seed: int, room: int) -> None:
    turns = small(seed, 3)
    least = fewest_seconds(turns, 3 + room, FLAT)
    assert simulate(turns, 3 + room, Belady(FLAT, uses_of(turns)), FLAT).seconds == pytest.approx(least)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), room=st.integers(0, 2))
def test_nothing_beats_the_bound_and_foresight_is_close(seed: int, room: int) -> None:
    turns = small(seed, 3)
    least = fewest_seconds(turns, 3 + room, COST)
    foresight = simulate(turns, 3 + room, Belady(COST, uses_of(turns)), COST).seconds
    assert 0.9 * least - 1e-9 <= least_seconds(turns, 3 + room, COST) <= least * (1 + 1e-9)
    assert least * (1 - 1e-9) <= foresight <= 1.5 * least


def test_gaps_and_what_an_endless_cache_holds() -> None:
    turns = [Turn(0.0, (1, 2)), Turn(1.0, (3,)), Turn(2.0, (1, 4)), Turn(3.0, (1, 2))]
    assert gaps(turns) == [Gap(1, 0, 0, 2), Gap(1, 0, 2, 3), Gap(2, 1, 0, 3)]
    assert live_blocks(turns) == [2, 3, 3, 2]


def test_a_replay_by_hand() -> None:
    turns = [Turn(float(n), blocks) for n, blocks in enumerate([(1, 2), (3,), (1, 2), (3,)])]
    assert simulate(turns, 2, LeastRecentlyUsed(), FLAT) == Simulated(2.0, 1, 6)
    assert simulate(turns, 3, LeastRecentlyUsed(), FLAT) == Simulated(0.0, 3, 6)
    with pytest.raises(ValueError, match="2 blocks for a pool of 1"):
        simulate(turns, 1, LeastRecentlyUsed(), FLAT)


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_replays_conversations_the_same_way_twice(name: str) -> None:
    turns = conversations(1, count=8, lengths=(256, 700))
    capacity = max(len(turn.blocks) for turn in turns) + 20
    first, again = (simulate(turns, capacity, POLICIES[name](Given(COST)), COST) for _ in range(2))
    assert first == again
    assert 0 < first.found < first.asked
    oracle = simulate(turns, capacity, Belady(COST, uses_of(turns)), COST).seconds
    assert least_seconds(turns, capacity, COST) <= oracle <= first.seconds


def test_long_contexts_are_worth_more_than_many_hits() -> None:
    """Long contexts come back after a long time, short ones are many and soon come back: AsymCache spends less time on
    recomputing than LRU, although it finds fewer blocks.
    """
    turns, now = [], 0.0
    for turn in range(240):
        now += 1.0
        if turn % 12 == 0:
            long = turn // 12 % 2
            turns.append(Turn(now, tuple(range(1000 * long, 1000 * long + 200))))
        else:
            short = 10_000 + 100 * (turn % 6)
            turns.append(Turn(now, tuple(range(short, short + 40))))
    cost = PrefillCost(0.0, 1e-3, 1e-5)
    lru, asym = (simulate(turns, 460, POLICIES[name](Given(cost)), cost) for name in ("lru", "asymcache"))
    assert asym.found < lru.found
    assert asym.seconds < lru.seconds


def test_the_command_prints_a_table() -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "bench.retention_sim", "--policies", "fifo", "--seeds", "1"]
    out = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout
    assert [line.split("|")[1].strip() for line in out.splitlines()[2:]] == ["lru", "fifo", "oracle", "bound"]
