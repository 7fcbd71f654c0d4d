"""The share of sessions: whose block goes first, by hand and beside the policy alone."""

from __future__ import annotations

import random

import pytest

import tiny
from kvloom.policy.events import Block, hints_of
from kvloom.policy.retention import POLICIES
from kvloom.policy.retention.lru import LeastRecentlyUsed
from kvloom.policy.retention.session_share import ACTIVE_S, SessionShare
from kvloom.segment import PageId, PageKey, Why

SIZE = 1000


def block(number: int, session: int | None = None, priority: int = 50, ttl_s: float | None = None) -> Block:
    hints = hints_of(priority, ttl_s, session=session)
    return Block(PageKey(bytes([number])), None, PageId(number), "f", 16 * number, (1,) * 16, SIZE, hints)


def stored(share: int, *blocks: Block) -> SessionShare:
    """One after another, a second apart. ``share``: blocks that others may have."""
    policy = SessionShare(LeastRecentlyUsed(), share * SIZE)
    for second, each in enumerate(blocks):
        policy.stored(each, float(second))
        policy.idle(each, float(second))
    return policy


def test_others_go_first_while_they_have_more_than_their_share() -> None:
    policy = stored(2, block(1, session=7), block(2), block(3), block(4), block(5, session=7))
    gone = []
    for _ in range(5):
        gone.append(policy.victim("f", 10.0))
        assert gone[-1] is not None
        policy.gone(block(int(gone[-1])), Why.EVICTED, 10.0)
    assert gone == [2, 1, 3, 4, 5], "within the share, in the order of the policy"
    assert policy.victim("f", 10.0) is None


def test_a_lower_priority_goes_first_whatever_it_is_of() -> None:
    policy = stored(0, block(1, session=7, priority=40), block(2), block(3, priority=30))
    assert policy.victim("f", 10.0) == 3
    policy.gone(block(3, priority=30), Why.EVICTED, 10.0)
    assert policy.victim("f", 10.0) == 1


def test_a_session_is_active_for_a_while_or_for_its_ttl() -> None:
    policy = stored(0, block(1, session=7, ttl_s=2 * ACTIVE_S), block(2), block(3))
    assert [policy.victim("f", now) for now in (ACTIVE_S, 2 * ACTIVE_S - 1, 2 * ACTIVE_S)] == [2, 2, 1]
    short = stored(0, block(1, session=7), block(2))
    assert [short.victim("f", now) for now in (ACTIVE_S - 1, ACTIVE_S)] == [2, 1]


def test_what_a_session_takes_up_becomes_its_own() -> None:
    policy = stored(1, block(1), block(2), block(3))
    policy.reused(block(1), 5.0)
    policy.idle(block(1, session=7), 5.0)
    policy.reused(block(2), 6.0)
    policy.idle(block(2), 6.0)
    assert policy.victim("f", 7.0) == 3
    policy.gone(block(3), Why.EVICTED, 7.0)
    assert policy.victim("f", 8.0) == 1, "one of others is within their share"


@pytest.mark.parametrize("name", POLICIES)
def test_without_sessions_the_order_is_the_policys(name: str) -> None:
    rng, now = random.Random(name), 0.0
    alone, share = POLICIES[name](tiny.GIVEN), SessionShare(POLICIES[name](tiny.GIVEN), 0)
    idle: dict[int, Block] = {}
    for number in range(120):
        now += rng.choice([0.0, 1.0, 40.0])
        each = block(number, priority=rng.choice([50, 60]))
        for policy in (alone, share):
            policy.stored(each, now)
            policy.idle(each, now)
        idle[number] = each
        if rng.random() < 0.3:
            again = idle[rng.choice(list(idle))]
            for policy in (alone, share):
                policy.reused(again, now)
                policy.idle(again, now)
        if rng.random() < 0.5:
            victim = alone.victim("f", now)
            assert victim == share.victim("f", now)
            assert victim is not None
            for policy in (alone, share):
                policy.gone(idle[int(victim)], Why.EVICTED, now)
            del idle[int(victim)]
        assert share.book() == alone.book() == idle.keys()
