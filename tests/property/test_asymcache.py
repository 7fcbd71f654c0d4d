"""AsymCache names the block with the least expected time of recomputing, whatever happened and whenever asked."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvloom.policy.cost import PrefillCost
from kvloom.policy.events import Block, priority_of, with_priority
from kvloom.policy.retention.asymcache import AsymCache, Lifespan, Multiplier, per_byte, per_byte_and_use
from kvloom.segment import PageId, Why

COST = PrefillCost(0.0, 1e-3, 1e-5)
TOKENS = tuple(range(16))


def block(page: int, index: int = 0, format: str = "full", priority: float = 50.0, size: int = 4096) -> Block:
    return Block(b"key", b"parent", PageId(page), format, 16 * index, TOKENS, size, with_priority(priority))


def f(lifespan: Lifespan, log_lambda: float, idle_s: float) -> float:
    """As the paper has it."""
    alpha = -lifespan.life_s / math.log(lifespan.p)
    beta = alpha / lifespan.ratio
    offset = lifespan.life_s * (1 - 1 / lifespan.ratio)
    return min(math.exp(-idle_s / alpha), math.exp(log_lambda) * math.exp(-(idle_s - offset) / beta))


LIFESPANS = st.builds(
    Lifespan,
    life_s=st.floats(5.0, 500.0),
    p=st.sampled_from([0.5, 0.9, 0.99]),
    ratio=st.sampled_from([2.0, 10.0, 40.0]),
)
Happening = tuple[int, str, float, float]
"""The page, what happens to it, after how many seconds, and its priority if it is new."""

EVENTS = st.lists(
    st.tuples(
        st.integers(0, 15),
        st.sampled_from(["use", "use", "drop", "reset"]),
        st.floats(0.0, 60.0),
        st.sampled_from([50.0, 50.0, 50.0, 80.0]),
    ),
    min_size=1,
    max_size=120,
)


@settings(deadline=None)
@given(
    lifespan=LIFESPANS, events=EVENTS, multiplier=st.sampled_from([per_byte, per_byte_and_use]), start=st.floats(0, 1e6)
)
def test_equals_brute_force(lifespan: Lifespan, events: list[Happening], multiplier: Multiplier, start: float) -> None:
    replay(lifespan, events, multiplier, start)


@pytest.mark.parametrize("seed", range(6))
def test_equals_brute_force_after_lambda_has_changed(seed: int) -> None:
    chance = random.Random(seed)
    verbs = ["use", "use", "use", "drop"]
    events = [(chance.randrange(16), chance.choice(verbs), 30 * chance.random(), 50.0) for _ in range(400)]
    policy = replay(Lifespan(60.0, p=0.8, ratio=10.0), events, per_byte, 1e5)
    assert abs(policy.log_lambda) > 0.1


def replay(lifespan: Lifespan, events: list[Happening], multiplier: Multiplier, start: float) -> AsymCache:
    """Asks at several times after each event."""
    policy = AsymCache(COST, lifespan, multiplier)
    now, idle, uses, held = start, {}, {}, {}
    for page, verb, wait_s, priority in events:
        now += wait_s
        if page in idle:
            each, _ = idle.pop(page)
            if verb == "use":
                policy.reused(each, now)
                uses[page] += 1
                held[page] = each
            else:
                policy.gone(each, Why.EVICTED if verb == "drop" else Why.RESET, now)
        elif page in held:
            policy.idle(held[page], now)
            idle[page] = held.pop(page), now
        else:
            size = 4096 * (1 + page % 3)
            each = block(page, (7 * page) % 90, "full" if page % 2 else "window", priority, size)
            policy.stored(each, now)
            policy.idle(each, now)
            uses[page], idle[page] = 1, (each, now)
        assert policy.book() == idle.keys()
        for at in (now, now + 3.0, now + lifespan.life_s, now + 3 * lifespan.life_s):
            for format in ("full", "window", None):
                value = {
                    page: (
                        priority_of(each.hints),
                        f(lifespan, policy.log_lambda, at - last)
                        * COST.block(each.position, 16)
                        * multiplier(each, uses[page]),
                    )
                    for page, (each, last) in idle.items()
                    if format in (None, each.format)
                }
                victim = policy.victim(format, at)
                assert (victim is None) == (not value)
                if victim is not None:
                    priority, least = min(value.values())
                    assert value[victim][0] == priority
                    assert value[victim][1] <= least * (1 + 1e-6)
    return policy


def told(idle_s: float, times: int = 64) -> AsymCache:
    """That has seen blocks come back after so long."""
    policy, now, each = AsymCache(COST, Lifespan(100.0)), 0.0, block(99)
    policy.stored(each, now)
    for _ in range(times):
        policy.idle(each, now)
        now += idle_s
        policy.reused(each, now)
    policy.gone(each, Why.RESET, now)
    return policy


@pytest.mark.parametrize("idle_s", [1.0, 100.0, 700.0])
def test_lambda_moves_the_turning_point_to_the_mean_time_to_reuse(idle_s: float) -> None:
    lifespan, log_lambda = Lifespan(100.0), told(idle_s).log_lambda
    slow, fast = -idle_s / lifespan.alpha_s, log_lambda - (idle_s - lifespan.offset_s) / lifespan.beta_s
    assert slow == pytest.approx(fast)
    before, after = (f(lifespan, log_lambda, idle_s * factor) for factor in (0.99, 1.01))
    assert before == pytest.approx(math.exp(-0.99 * idle_s / lifespan.alpha_s))
    assert after < math.exp(-1.01 * idle_s / lifespan.alpha_s)


def test_lambda_forgets() -> None:
    policy = told(1.0, 300)
    assert policy.log_lambda < 0
    each, now = block(1), 1000.0
    policy.stored(each, now)
    for _ in range(320):
        policy.idle(each, now)
        now += 100.0
        policy.reused(each, now)
    assert policy.log_lambda == pytest.approx(0.0, abs=1e-12)


def test_f_is_p_and_continuous_at_the_end_of_a_life() -> None:
    lifespan = Lifespan(life_s=600.0, p=0.9, ratio=40.0)
    assert f(lifespan, 0.0, 600.0) == pytest.approx(0.9)
    assert f(lifespan, 0.0, 600.1) == pytest.approx(0.9, abs=1e-3)
    assert (lifespan.alpha_s, lifespan.beta_s) == pytest.approx((-600 / math.log(0.9), -15 / math.log(0.9)))


def test_where_all_costs_the_same_it_is_lru() -> None:
    policy = AsymCache(PrefillCost(0.0, 1e-3, 0.0))
    blocks = {n: block(n, n % 4) for n in range(40)}
    for n, each in blocks.items():
        policy.stored(each, 1e7)
        policy.idle(each, 1e7 + n // 4 * 1e-3)
    order = []
    while (page := policy.victim(None, 1e7 + 60.0)) is not None:
        order.append(int(page))
        policy.gone(blocks[page], Why.EVICTED, 1e7 + 60.0)
    assert order == sorted(blocks, key=lambda n: (n // 4, -(n % 4)))


def test_of_one_release_the_lowest_positions_go_first() -> None:
    policy = AsymCache(COST, Lifespan(p=0.999999))
    for n in (3, 1, 4, 0, 2):
        policy.stored(block(n, n), 1.0)
        policy.idle(block(n, n), 1.0)
    order = []
    while (page := policy.victim("full", 100.0)) is not None:
        order.append(int(page))
        policy.gone(block(int(page), int(page)), Why.EVICTED, 100.0)
    assert order == [0, 1, 2, 3, 4]


def test_what_many_use_stays_when_told_to_count_them() -> None:
    for multiplier, first in ((per_byte, 0), (per_byte_and_use, 1)):
        policy = AsymCache(COST, multiplier=multiplier)
        shared, deep = block(0, 0), block(1, 10)
        for each in (shared, deep):
            policy.stored(each, 0.0)
        for _ in range(5):
            policy.reused(shared, 0.0)
        for each in (shared, deep):
            policy.idle(each, 1.0)
        assert policy.victim("full", 2.0) == first


def test_stale_entries_do_not_pile_up() -> None:
    policy, each = AsymCache(COST), block(1)
    policy.stored(each, 0.0)
    for n in range(5000):
        policy.idle(each, float(n))
        policy.reused(each, n + 0.5)
    heaps = policy._heaps["full"]
    assert len(heaps.first) + len(heaps.second) < 200


def test_years_of_uptime_do_not_overflow() -> None:
    policy, year = AsymCache(COST, Lifespan(1.0)), 3.2e7
    for n in range(3):
        policy.stored(block(n, n), year * n)
        policy.idle(block(n, n), year * n)
    assert policy.victim(None, 100 * year) == 0
