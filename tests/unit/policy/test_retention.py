"""Every retention policy answers as a brute force over all that happened would."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import get_args

import pytest

from kvloom.config import CacheConfig, RetentionName
from kvloom.eval.subject import engine_beside
from kvloom.policy.events import Block, priority_of, with_priority
from kvloom.policy.retention import POLICIES
from kvloom.policy.retention.base import Retention
from kvloom.segment import PageId, Why
from tiny import make_engine

Event = tuple[str, Block, float]
"""(verb, block, seconds)."""


def block(page: int, format: str = "full", position: int = 0, priority: float = 50.0) -> Block:
    return Block(b"key", b"parent", PageId(page), format, position, (1, 2), 4096, with_priority(priority))


def tell(policy: Retention, verb: str, subject: Block, now: float, why: Why = Why.EVICTED) -> None:
    if verb == "gone":
        policy.gone(subject, why, now)
    else:
        getattr(policy, verb)(subject, now)


def rest(policy: Retention, subject: Block, now: float) -> None:
    """Store it and let it go."""
    policy.stored(subject, now)
    policy.idle(subject, now)


def evicted(policy: Retention, blocks: dict[int, Block], format: str | None) -> list[int]:
    """All that the policy gives up, in its order."""
    order = []
    while (page := policy.victim(format, 100.0)) is not None:
        order.append(int(page))
        policy.gone(blocks[page], Why.EVICTED, 100.0)
    return order


@pytest.fixture(params=sorted(POLICIES))
def policy(request: pytest.FixtureRequest) -> Retention:
    return POLICIES[request.param]()


def test_every_policy_has_a_setting() -> None:
    assert set(POLICIES) == set(get_args(RetentionName))


def test_oldest_first_and_deepest_of_one_release_first(policy: Retention) -> None:
    blocks = {page: block(page, position=position) for page, position in [(1, 0), (2, 16), (3, 0), (4, 32)]}
    for page, now in [(3, 1.0), (1, 2.0), (2, 2.0), (4, 2.0)]:
        rest(policy, blocks[page], now)
    assert evicted(policy, blocks, "full") == [3, 4, 2, 1]


def test_formats_are_kept_apart_unless_asked_for_all(policy: Retention) -> None:
    blocks = {1: block(1, "full"), 2: block(2, "window")}
    rest(policy, blocks[1], 1.0)
    rest(policy, blocks[2], 0.0)
    assert policy.victim("full", 2.0) == 1
    assert policy.victim("full", 2.0) == 1, "asking changes nothing"
    assert policy.victim("other", 2.0) is None
    assert evicted(policy, blocks, None) == [2, 1]


def test_a_fresh_one_knows_nothing_and_the_book_tells_what_is_idle(policy: Retention) -> None:
    for page in range(3):
        rest(policy, block(page), 1.0)
    policy.reused(block(1), 2.0)
    policy.gone(block(2), Why.RESET, 3.0)
    assert policy.book() == {0}
    assert policy.fresh().book() == set()
    assert type(policy.fresh()) is type(policy)


def test_lower_priority_goes_first_whatever_else_is_known(policy: Retention) -> None:
    blocks = {page: block(page, priority=priority) for page, priority in [(1, 0.0), (2, 90.0), (3, 50.0), (4, 50.0)]}
    for page in (2, 3, 4, 1):
        rest(policy, blocks[page], float(page))
    policy.reused(blocks[1], 9.0)
    policy.idle(blocks[1], 9.0)
    assert evicted(policy, blocks, None) == [1, 3, 4, 2]


def test_idle_said_again_counts_anew(policy: Retention) -> None:
    blocks = {page: block(page) for page in (1, 2)}
    rest(policy, blocks[1], 1.0)
    rest(policy, blocks[2], 2.0)
    policy.idle(blocks[1], 3.0)
    assert evicted(policy, blocks, "full") == [2, 1]


def lru_rank(life: list[Event], evictions: dict[int, float]) -> tuple[float, ...]:
    return (priority_of(life[-1][1].hints), life[-1][2], -life[-1][1].position)


def lfu_rank(life: list[Event], evictions: dict[int, float]) -> tuple[float, ...]:
    uses = sum(verb in ("stored", "reused") for verb, _, _ in life)
    age = max([worth for at, worth in evictions.items() if at <= life[-1][2]], default=0.0)
    return (priority_of(life[-1][1].hints), age + uses, life[-1][2], -life[-1][1].position)


@pytest.mark.parametrize(("name", "rank_of"), [("lru", lru_rank), ("lfu", lfu_rank)])
@pytest.mark.parametrize("seed", range(3))
def test_equals_brute_force_over_random_lives(name: str, rank_of: Callable, seed: int) -> None:
    """The oracle keeps every block's history, and sorts all that is idle each time."""
    chance, policy = random.Random(seed), POLICIES[name]()
    lives: dict[int, list[Event]] = {}
    evictions: dict[int, float] = {}
    for now in range(1500):
        page = chance.randrange(80)
        life = lives.setdefault(page, [])
        if not life:
            verb = "stored"
        elif life[-1][0] == "idle":
            verb = chance.choice(["reused", "reused", "gone"])
        else:
            verb = chance.choice(["reused", "idle", "idle"])
        priority = chance.choice([50.0, 50.0, 10.0, 90.0])
        new = block(page, chance.choice(["full", "window"]), 16 * chance.randrange(9), priority)
        subject = life[-1][1] if life else new
        why = chance.choice([Why.EVICTED, Why.RESET])
        tell(policy, verb, subject, float(now), why)
        if verb == "gone":
            if why is Why.EVICTED:
                evictions[now] = rank_of(life, evictions)[1]
            del lives[page]
        else:
            life.append((verb, subject, float(now)))
        for format in ("full", "window", None):
            idle = {
                page: rank_of(life, evictions)
                for page, life in lives.items()
                if life and life[-1][0] == "idle" and format in (None, life[-1][1].format)
            }
            assert policy.victim(format, float(now)) == min(idle, key=idle.__getitem__, default=None)


def test_lfu_keeps_what_is_used_often_until_the_cache_has_aged() -> None:
    policy, popular = POLICIES["lfu"](), block(0)
    rest(policy, popular, 0.0)
    for now in range(3):
        policy.reused(popular, float(now))
        policy.idle(popular, float(now))
    evictions = 0
    for page in range(1, 100):
        rest(policy, block(page), 10.0 + page)
        victim = policy.victim("full", 10.0 + page)
        if victim == 0:
            break
        policy.gone(block(int(victim)), Why.EVICTED, 10.0 + page)
        evictions += 1
    assert evictions == 3, "four uses outlive three rounds of things used once"


@pytest.mark.parametrize("name", POLICIES)
def test_an_engine_gets_what_its_settings_name(name: RetentionName) -> None:
    engine = engine_beside(make_engine(), CacheConfig(kv_bytes="4MiB", retention=name))
    assert type(engine.ledger.retention) is type(POLICIES[name]())
