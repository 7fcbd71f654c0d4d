"""Every retention policy answers as a brute force over all that happened would."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import get_args

import pytest

from kvloom.config import CacheConfig, RetentionName
from kvloom.engine.retention import make_retention
from kvloom.eval.subject import engine_beside
from kvloom.policy.cost import PrefillCost
from kvloom.policy.events import Block, Hints, hints_of, merged, priority_of, with_priority
from kvloom.policy.retention import POLICIES, Given
from kvloom.policy.retention.base import Retention
from kvloom.policy.retention.chunk_share import ChunkShare
from kvloom.policy.retention.session_share import SessionShare
from kvloom.policy.retention.worth import seconds_per_byte
from kvloom.segment import PageId, Why
from tiny import GIVEN, make_engine

FLAT = Given(PrefillCost(0.0, 1e-3, 0.0))
"""Every token costs the same."""

Event = tuple[str, Block, float]
"""(verb, block, seconds)."""


def block(
    page: int, format: str = "full", position: int = 0, priority: float = 50.0, ttl_s: float | None = None
) -> Block:
    return Block(b"key", b"parent", PageId(page), format, position, (1, 2), 4096, hints_of(priority, ttl_s))


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
    return POLICIES[request.param](FLAT)


def test_every_policy_has_a_setting() -> None:
    assert set(POLICIES) == set(get_args(RetentionName))


def test_oldest_first_and_deepest_of_one_release_first(policy: Retention) -> None:
    blocks = {page: block(page, position=position) for page, position in [(1, 0), (2, 16), (3, 0), (4, 32)]}
    for page, now in [(3, 1.0), (1, 2.0), (2, 2.0), (4, 2.0)]:
        rest(policy, blocks[page], now)
    assert evicted(policy, blocks, "full") == [3, 4, 2, 1]


COSTLY = "pgdsf", "pensieve", "asymcache", "survival"
"""Policies that tell blocks of one release apart by what they cost."""


@pytest.mark.parametrize("name", POLICIES)
def test_of_one_release_the_cheapest_goes_first_or_the_deepest(name: str) -> None:
    policy, blocks = POLICIES[name](GIVEN), {n: block(n, position=16 * n) for n in range(5)}
    for each in reversed(blocks.values()):
        rest(policy, each, 1.0)
    assert evicted(policy, blocks, None) == sorted(blocks, reverse=name not in COSTLY)


@pytest.mark.parametrize("name", POLICIES)
def test_slabs_go_in_order_of_release(name: str) -> None:
    """They have no tokens and no keys, are idle since a time that may precede other events, and are idle anew later."""
    policy = POLICIES[name](GIVEN)
    slabs = {n: Block(None, None, PageId(n), "full", 0, (), 65536) for n in range(4)}
    for n, slab in slabs.items():
        policy.stored(slab, 5.0 + n)
    for n, since in [(0, 1.0), (1, 4.0), (2, 2.0), (3, 3.0)]:
        policy.idle(slabs[n], since)
    policy.idle(slabs[0], 6.0)
    policy.reused(slabs[3], 7.0)
    assert policy.book() == {0, 1, 2}
    assert evicted(policy, slabs, None) == ([0, 1, 2] if name == "fifo" else [2, 1, 0])


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


@pytest.mark.parametrize("name", sorted(POLICIES.keys() - {"fifo"}))
def test_idle_said_again_counts_anew(name: str) -> None:
    policy = POLICIES[name](GIVEN)
    blocks = {page: block(page) for page in (1, 2)}
    rest(policy, blocks[1], 1.0)
    rest(policy, blocks[2], 2.0)
    policy.idle(blocks[1], 3.0)
    assert evicted(policy, blocks, "full") == [2, 1]


@pytest.mark.parametrize("seed", range(3))
def test_any_life_and_the_same_life_again_end_the_same(policy: Retention, seed: int) -> None:
    """Deterministic: two policies that were told the same say the same, whoever is asked in between."""
    twin, chance = policy.fresh(), random.Random(seed)
    state: dict[int, Block] = {}
    idle: set[int] = set()
    for now in range(800):
        page = chance.randrange(40)
        if page not in state:
            state[page] = block(page, chance.choice(["full", "window"]), 16 * chance.randrange(40))
            verb = "stored"
        elif page in idle:
            verb = chance.choice(["reused", "reused", "gone"])
        else:
            verb = "idle"
        for each in (policy, twin):
            tell(each, verb, state[page], float(now))
        idle = idle | {page} if verb == "idle" else idle - {page}
        if verb == "gone":
            del state[page]
        policy.victim(None, now + 0.5)
        assert policy.book() == idle
        for format in ("full", "window", None):
            assert policy.victim(format, now + 1.0) == twin.victim(format, now + 1.0)
        assert (policy.victim(None, now + 1.0) is None) == (not idle)


World = dict[int, float]
"""Values of evicted blocks, by the time of their eviction."""


def lru_rank(life: list[Event], evictions: World) -> tuple[float, ...]:
    return (priority_of(life[-1][1].hints), life[-1][2], -life[-1][1].position)


def fifo_rank(life: list[Event], evictions: World) -> tuple[float, ...]:
    return (priority_of(life[-1][1].hints), life[0][2], -life[-1][1].position)


def ttl_rank(life: list[Event], evictions: World) -> tuple[float, ...]:
    _, subject, last = life[-1]
    return (priority_of(subject.hints), last + subject.hints.get("ttl_s", 300.0))


def uses(life: list[Event]) -> int:
    return sum(verb in ("stored", "reused") for verb, _, _ in life)


def lfu_rank(life: list[Event], evictions: World) -> tuple[float, ...]:
    age = max([value for at, value in evictions.items() if at <= life[-1][2]], default=0.0)
    return (priority_of(life[-1][1].hints), age + uses(life), life[-1][2], -life[-1][1].position)


def pgdsf_rank(life: list[Event], evictions: World) -> tuple[float, ...]:
    _, subject, last = life[-1]
    clock = max([value for at, value in evictions.items() if at <= last], default=0.0)
    value = clock + uses(life) * seconds_per_byte(GIVEN.cost, subject)
    return (priority_of(subject.hints), value, last, -subject.position)


RANKS = {"lru": lru_rank, "fifo": fifo_rank, "ttl": ttl_rank, "lfu": lfu_rank, "pgdsf": pgdsf_rank}


@pytest.mark.parametrize(("name", "rank_of"), RANKS.items(), ids=RANKS)
@pytest.mark.parametrize("seed", range(3))
def test_equals_brute_force_over_random_lives(name: str, rank_of: Callable, seed: int) -> None:
    """The oracle keeps every block's history, and sorts all that is idle each time."""
    chance, policy = random.Random(seed), POLICIES[name](GIVEN)
    lives: dict[int, list[Event]] = {}
    evictions: World = {}
    for now in range(1500):
        page = chance.randrange(80)
        life = lives.setdefault(page, [])
        if not life:
            verb = "stored"
        elif life[-1][0] == "idle":
            verb = chance.choice(["reused", "reused", "gone"])
        else:
            verb = chance.choice(["reused", "idle", "idle"])
        priority, ttl_s = chance.choice([50.0, 50.0, 10.0, 90.0]), chance.choice([None, None, 25.5, 1000.25])
        new = block(page, chance.choice(["full", "window"]), 16 * chance.randrange(9), priority, ttl_s)
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
    policy, popular = POLICIES["lfu"](GIVEN), block(0)
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
    first = make_engine()
    engine = engine_beside(first, CacheConfig(kv_bytes="4MiB", retention=name))
    shared = engine.ledger.retention
    assert isinstance(shared, ChunkShare)
    assert isinstance(shared.texts, SessionShare)
    assert isinstance(shared.chunks, SessionShare)
    assert (
        type(shared.texts.policy)
        is type(shared.chunks.policy)
        is type(POLICIES[name](GIVEN))
        is type(make_retention(name, first.model))
    )


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (with_priority(10), with_priority(50), (50, None)),
        (with_priority(50), with_priority(10), (50, None)),
        (with_priority(10), with_priority(20), (20, None)),
        (hints_of(10, 5.0), hints_of(50, None), (50, 5.0)),
        (hints_of(60, 5.0), hints_of(50, 9.0), (60, 9.0)),
    ],
)
def test_the_higher_of_two_hints_wins(one: Hints, other: Hints, expected: tuple[float, float | None]) -> None:
    for hints in (merged(one, other), merged(other, one)):
        assert (priority_of(hints), hints.get("ttl_s")) == expected
