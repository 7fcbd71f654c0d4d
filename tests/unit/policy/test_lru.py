"""Least recently used, deepest first."""

from __future__ import annotations

import random

from kvloom.policy.retention.base import Candidate
from kvloom.policy.retention.lru import LeastRecentlyUsed
from kvloom.segment import PageId


def candidate(page: int, kind: str = "full", position: int = 0, at: float = 0.0) -> Candidate:
    return Candidate(PageId(page), kind, position, 4096, at)


def order(policy: LeastRecentlyUsed, kind: str | None) -> list[int]:
    taken = []
    while (drop := next(policy.propose(kind), None)) is not None:
        taken.append(drop.page)
        policy.withdraw(drop.page)
    return taken


def test_oldest_first_and_deepest_of_one_release_first() -> None:
    policy = LeastRecentlyUsed()
    for page, position, at in [(1, 0, 2.0), (2, 16, 2.0), (3, 0, 1.0), (4, 32, 2.0)]:
        policy.admit(candidate(page, position=position, at=at))
    assert order(policy, "full") == [3, 4, 2, 1]


def test_kinds_are_kept_apart_unless_asked_for_all() -> None:
    policy = LeastRecentlyUsed()
    policy.admit(candidate(1, "full", at=1.0))
    policy.admit(candidate(2, "window", at=0.0))
    assert next(policy.propose("full")).page == 1
    assert [drop.page for drop in policy.propose()] == [2, 1]
    assert next(policy.propose("other"), None) is None


def test_equals_brute_force_over_random_lives() -> None:
    chance, policy, live = random.Random(1), LeastRecentlyUsed(), {}
    for step in range(3000):
        page = chance.randrange(200)
        if page in live:
            policy.withdraw(PageId(page))
            del live[page]
        else:
            live[page] = (float(step // 5), -chance.randrange(10), step)
            policy.admit(candidate(page, position=-live[page][1], at=live[page][0]))
        if live:
            assert next(policy.propose("full")).page == min(live, key=live.__getitem__)
