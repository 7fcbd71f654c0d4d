"""Policies whose exact order is one of a few classes, whose candidates are compared when room is needed."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvloom.policy.events import Block, hints_of, priority_of, with_priority
from kvloom.policy.retention import pensieve
from kvloom.policy.retention.base import Retention
from kvloom.policy.retention.max_score import Category, MaxScore
from kvloom.policy.retention.pause import PauseTtl, best_ttls
from kvloom.policy.retention.pensieve import CostOverAge
from kvloom.policy.retention.tail_lru import TailLru
from kvloom.policy.retention.ttl import TimeToLive
from kvloom.policy.retention.worth import seconds_per_byte
from kvloom.segment import PageId, Why
from tiny import GIVEN

TOKENS = tuple(range(16))


def block(page: int, index: int = 0, ttl_s: float | None = None, priority: float = 50.0, format: str = "full") -> Block:
    """Page ``index`` of a context."""
    return Block(b"key", b"parent", PageId(page), format, 16 * index, TOKENS, 4096, hints_of(priority, ttl_s))


def release(policy: Retention, blocks: list[Block], now: float) -> None:
    """Stored, if they were not, and let go together, the deepest first."""
    for each in reversed(blocks):
        policy.stored(each, now)
    for each in reversed(blocks):
        policy.idle(each, now)


def evicted(policy: Retention, blocks: list[Block], now: float) -> list[int]:
    of_page, order = {each.page: each for each in blocks}, []
    while (page := policy.victim(None, now)) is not None:
        order.append(int(page))
        policy.gone(of_page[page], Why.EVICTED, now)
    return order


class TestTailLru:
    def test_what_the_next_turn_can_compute_in_time_goes_first(self) -> None:
        policy = TailLru(threshold_tokens=64, next_tokens=16)
        old = [block(n, n) for n in range(8)]
        young, short = [block(10 + n, n) for n in range(8)], [block(20 + n, n) for n in range(2)]
        for blocks, now in ((old, 1.0), (young, 2.0), (short, 3.0)):
            release(policy, blocks, now)
        spare = [7, 6, 5, 17, 16, 15, 21, 20]
        assert evicted(policy, [*old, *young, *short], 9.0) == [*spare, 4, 3, 2, 1, 0, 14, 13, 12, 11, 10]

    def test_two_releases_at_one_time_are_two_conversations(self) -> None:
        policy = TailLru(threshold_tokens=32, next_tokens=16)
        short, long = [block(n, n) for n in range(4)], [block(10 + n, n) for n in range(6)]
        for blocks in (short, long):
            for each in reversed(blocks):
                policy.idle(each, 1.0)
        assert evicted(policy, [*short, *long], 9.0)[:3] == [15, 3, 14]

    def test_formats_are_let_go_one_after_the_other(self) -> None:
        policy = TailLru(threshold_tokens=32, next_tokens=16)
        full, window = [block(n, n) for n in range(4)], [block(10 + n, n, format="window") for n in (2, 3)]
        release(policy, full, 1.0)
        release(policy, window, 1.0)
        assert policy.victim("full", 2.0) == 3
        assert policy.victim("window", 2.0) == 13

    def test_a_hint_that_comes_later_changes_no_class(self) -> None:
        policy = TailLru(threshold_tokens=32, next_tokens=16)
        blocks = [block(n, n) for n in range(4)]
        release(policy, blocks, 1.0)
        release(policy, [block(10)], 2.0)
        policy.idle(blocks[1]._replace(hints=with_priority(49)), 1.0)
        policy.idle(blocks[1], 1.0)
        assert evicted(policy, [*blocks, block(10)], 9.0) == [3, 10, 2, 1, 0]


class TestPensieve:
    def test_cost_over_age(self) -> None:
        policy = CostOverAge(GIVEN.cost)
        cheap, dear = block(1, 0), block(2, 60)
        worth = [seconds_per_byte(GIVEN.cost, each) for each in (cheap, dear)]
        policy.idle(dear, 0.0)
        policy.idle(cheap, 100.0)
        turn = 100 * worth[1] / (worth[1] - worth[0])  # at which cheap / (turn - 100) = dear / turn
        assert policy.victim("full", turn - 1) == 2
        assert policy.victim("full", turn + 1) == 1

    def test_beginnings_go_first(self) -> None:
        policy, blocks = CostOverAge(GIVEN.cost), [block(n, n) for n in range(40)]
        release(policy, blocks, 1.0)
        assert evicted(policy, blocks, 50.0) == list(range(40))

    @given(seed=st.integers(0, 10**6))
    def test_the_value_of_a_victim_is_nearly_the_lowest(self, seed: int) -> None:
        chance, policy = random.Random(seed), CostOverAge(GIVEN.cost)
        blocks: dict[int, Block] = {}
        since: dict[int, float] = {}
        for now in range(120):
            fresh = block(now, chance.randrange(500), priority=chance.choice([50.0, 50.0, 60.0]))
            policy.idle(fresh, float(now))
            blocks[now], since[now] = fresh, float(now)
            if chance.random() < 0.3:
                used = chance.choice(list(since))
                policy.reused(blocks[used], now + 0.5)
                del since[used]
            at = now + chance.choice([1.0, 30.0, 1000.0])
            value = {
                page: (priority_of(blocks[page].hints), seconds_per_byte(GIVEN.cost, blocks[page]) / (at - last))
                for page, last in since.items()
            }
            victim = policy.victim("full", at)
            assert (victim is None) == (not since)
            if victim is not None:
                priority, lowest = min(value.values())
                assert value[victim][0] == priority
                assert value[victim][1] <= lowest * pensieve.STEP * (1 + 1e-9)


class TestMaxScore:
    def test_the_kind_that_comes_back_stays(self) -> None:
        """Of two kinds, one is always used again; when both have been idle as long, the other goes."""
        policy, kept = MaxScore(), block(1)
        release(policy, [kept], 0.0)
        for now in range(1, 40):
            policy.reused(kept, now - 0.5)
            policy.idle(kept, float(now))
            once = block(100 + now)
            release(policy, [once], float(now))
            policy.gone(once, Why.EVICTED, float(now) + 0.1)
        once = block(2)
        release(policy, [once], 40.0)
        assert policy.victim("full", 41.0) == 2, "although it is younger"
        assert policy.victim("full", 1e6) == 1, "both are past their lifespans: the longest idle of equal depth"

    def test_the_deepest_of_equally_probable_ones(self) -> None:
        policy, blocks = MaxScore(), [block(n, n) for n in range(3)]
        release(policy, blocks, 1.0)
        assert evicted(policy, blocks, 2.0) == [2, 1, 0]

    def test_probability_falls_with_idle_time_and_ends_with_the_lifespan(self) -> None:
        category = Category()
        for _ in range(90):
            category.count(True, 10.0)
        for _ in range(10):
            category.count(False, 500.0)
        scores = [category.probability(idle_s) for idle_s in (-1.0, 0.0, 5.0, 10.0, 40.0)]
        assert scores == sorted(scores, reverse=True)
        assert scores[1] == pytest.approx(91 / 102)
        mean_s = (900 + 60) / 91
        left = 91 / 102 * math.exp(-10 / mean_s)
        assert scores[3] == pytest.approx(left / (left + 11 / 102))
        assert category.probability(4.7 * mean_s) == 0.0

    def test_of_long_ago_less_is_known(self) -> None:
        category = Category()
        for _ in range(4096):
            category.count(True, 10.0)
        for _ in range(4096):
            category.count(False, 10.0)
        assert category.probability(0.0) < 0.3
        assert category.reused + category.dropped < 4096

    @given(seed=st.integers(0, 10**6))
    def test_equals_brute_force(self, seed: int) -> None:
        chance, policy = random.Random(seed), MaxScore()
        uses, since = {}, {}
        learned = {n: Category() for n in range(8)}
        for step in range(150):
            now, page = float(step), chance.randrange(12)
            each = block(page, page % 5, format="full" if page % 2 else "window")
            if page not in uses:
                policy.stored(each, now)
                policy.idle(each, now)
                uses[page], since[page] = 1, now
            elif page in since and chance.random() < 0.6:
                policy.reused(each, now)
                learned[uses[page].bit_length()].count(True, now - since.pop(page))
                uses[page] += 1
            elif page in since:
                policy.gone(each, Why.EVICTED, now)
                learned[uses.pop(page).bit_length()].count(False, now - since.pop(page))
            else:
                policy.idle(each, now)
                since[page] = now
            at = now + chance.choice([0.5, 20.0, 400.0])
            for fmt, odd in (("full", (1,)), ("window", (0,)), (None, (0, 1))):
                score = {p: learned[uses[p].bit_length()].probability(at - since[p]) for p in since if p % 2 in odd}
                victim = policy.victim(fmt, at)
                assert (victim is None) == (not score)
                assert victim is None or score[victim] == min(score.values())


class TestPause:
    def test_within_its_time_a_block_outlives_all_others_and_then_counts_as_used_at_expiry(self) -> None:
        policy = PauseTtl(GIVEN.cost)
        blocks = [block(1, ttl_s=100.0), block(2), block(3)]
        for each, now in zip(blocks, (1.0, 50.0, 120.0), strict=True):
            release(policy, [each], now)
        assert evicted(policy, blocks, 121.0) == [2, 1, 3]

    @given(
        pauses_s=st.lists(st.floats(0.01, 1e4), min_size=1, max_size=12).map(sorted),
        reused=st.floats(0.01, 1.0),
        lifetime_s=st.floats(0.1, 1e4),
        gain=st.floats(0.1, 10.0),
    )
    def test_the_time_that_pays_best(
        self, pauses_s: list[float], reused: float, lifetime_s: float, gain: float
    ) -> None:
        def value(ttl_s: float) -> float:
            back = sum(pause_s <= ttl_s for pause_s in pauses_s) / len(pauses_s)
            held_s = sum(min(pause_s, ttl_s) for pause_s in pauses_s) / len(pauses_s)
            return gain * back - (reused * held_s + (1 - reused) * ttl_s) / lifetime_s

        found = best_ttls(pauses_s, reused, lifetime_s, [gain, 0.0])
        assert found[1] == 0
        assert value(found[0]) == pytest.approx(max(value(ttl_s) for ttl_s in [0.0, *pauses_s]), abs=1e-9)

    def test_learns_how_long_pauses_are_and_keeps_what_is_dear_through_them(self) -> None:
        """Sessions come back after 5 seconds; what does not is evicted after 6."""
        policy, now = PauseTtl(GIVEN.cost), 0.0
        for turn in range(128):
            session, other = [block(n, n) for n in range(8)], [block(100 + n, n) for n in range(8)]
            release(policy, [*session, *other], now)
            for each in session:
                policy.reused(each, now + 5.0)
            for each in session:
                policy.gone(each, Why.RESET, now + 6.0)
            for each in other:
                policy.gone(each, Why.EVICTED, now + 6.0)
            now += 100.0 + turn
        release(policy, [block(1, 30)], now)
        release(policy, [block(2, 0)], now + 4.0)
        assert policy.victim("full", now + 4.1) == 2, "the deep one is worth a pause of five seconds"
        release(policy, [block(3, 0)], now + 6.0)
        assert evicted(policy, [block(1, 30), block(2), block(3)], now + 7.0) == [2, 1, 3], "but no longer one"

    def test_blocks_of_one_release_are_one_pause(self) -> None:
        policy = PauseTtl(GIVEN.cost)
        release(policy, [block(n, n) for n in range(50)], 1.0)
        for n in range(50):
            policy.reused(block(n, n), 3.0 + n / 1000)
        assert list(policy._pauses_s) == [2.0]


def test_ttl_evicts_in_order_of_expiry() -> None:
    policy = TimeToLive(default_s=10.0)
    blocks = [block(1), block(2, ttl_s=1.0), block(3, ttl_s=100.0), block(4), block(5, ttl_s=0.0, priority=51)]
    for each, now in zip(blocks, (1.0, 8.0, 0.0, 2.0, 0.0), strict=True):
        release(policy, [each], now)
    assert evicted(policy, blocks, 50.0) == [2, 1, 4, 3, 5]
