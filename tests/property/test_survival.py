"""Survival names the block that pays least for being kept, whatever happened, in logarithmic time."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvloom.policy.cost import PrefillCost
from kvloom.policy.events import Block, hints_of, priority_of
from kvloom.policy.retention import survival
from kvloom.policy.retention.hazard import ENDS_S
from kvloom.policy.retention.survival import Survival
from kvloom.policy.retention.worth import seconds_per_byte
from kvloom.segment import PageId, PageKey, Why

COST = PrefillCost(0.0, 1e-3, 1e-5)
FLAT = PrefillCost(0.0, 1e-3, 0.0)
TOKENS = tuple(range(16))


def key(*parts: object) -> PageKey:
    return PageKey(repr(parts).encode())


def block(
    page: int,
    index: int = 0,
    format: str = "full",
    priority: float = 50.0,
    ttl_s: float | None = None,
    chain: object = None,
) -> Block:
    """``chain``: blocks of equal ones follow one another."""
    chain = page if chain is None else chain
    hints = hints_of(priority, ttl_s)
    return Block(key(chain, index), key(chain, index - 1), PageId(page), format, 16 * index, TOKENS, 4096, hints)


def release(policy: Survival, blocks: Iterable[Block], now: float) -> None:
    for each in sorted(blocks, key=lambda each: -each.position):
        policy.idle(each, now)


def use(policy: Survival, blocks: list[Block], now: float, known: set[int]) -> None:
    """A request: what is stored is reused, the rest is stored, and all is let go."""
    for each in blocks:
        if each.page in known:
            policy.reused(each, now)
        else:
            policy.stored(each, now)
            known.add(each.page)
    release(policy, blocks, now)


class World:
    """Keeps what a brute force needs to know of every idle block: its kind, and since when it is idle."""

    def __init__(self, cost: PrefillCost = COST) -> None:
        self.policy, self.cost = Survival(cost), cost
        self.idle: dict[int, tuple[Block, int, float, float]] = {}

    def value(self, page: int, now: float) -> tuple[float, ...]:
        """As the policy is defined: by the rate of the bucket that its age falls into."""
        each, row, since, together_s = self.idle[page]
        assert 0 <= since - together_s <= 0.25
        bucket = next(number for number, end_s in enumerate(ENDS_S) if now < together_s + end_s)
        score = seconds_per_byte(self.cost, each) * self.policy._table.rate(row, bucket)
        return priority_of(each.hints), score, since, -each.position


HAPPENINGS = st.lists(
    st.tuples(
        st.integers(0, 9),
        st.integers(1, 6),
        st.floats(0.0, 40.0) | st.sampled_from([0.0, 300.0, 200_000.0]),
        st.sampled_from(["use", "use", "use", "evict", "evict", "reset"]),
        st.sampled_from([50.0, 50.0, 20.0]),
        st.sampled_from([None, None, 5.0]),
    ),
    min_size=1,
    max_size=60,
)


@settings(max_examples=60, deadline=None)
@given(happenings=HAPPENINGS, start=st.floats(0, 1e6))
def test_equals_brute_force(happenings: list[tuple[int, int, float, str, float, float | None]], start: float) -> None:
    replay(happenings, start)


@pytest.mark.parametrize("seed", range(4))
def test_equals_brute_force_after_much_was_learned(seed: int) -> None:
    chance = random.Random(seed)
    happenings = [
        (
            chance.randrange(8),
            chance.randint(1, 12),
            chance.choice([0.1, 5.0, 60.0]) * chance.random(),
            chance.choice(["use", "use", "use", "evict"]),
            50.0,
            None,
        )
        for _ in range(300)
    ]
    policy = replay(happenings, 1e5)
    assert policy._uses > 256, "rates were computed anew, several times"


def replay(happenings: list[tuple[int, int, float, str, float, float | None]], start: float) -> Survival:
    """Chains of blocks are used, evicted in the policy's order, and dropped otherwise."""
    world, now = World(), start
    policy, idle, known = world.policy, world.idle, set[int]()
    for chain, length, wait_s, verb, priority, ttl_s in happenings:
        now += wait_s
        if verb == "use":
            blocks = [
                block(100 * chain + n, n, "full" if chain % 3 else "window", priority, ttl_s, chain)
                for n in range(length)
            ]
            use(policy, blocks, now, known)
            for each in blocks:
                cohort = policy._lives[each.page].cohort
                assert cohort is not None
                idle[each.page] = each, cohort.row, now, cohort.since
        else:
            page = policy.victim(None, now) if verb == "evict" else next(iter(idle), None)
            if page is not None:
                policy.gone(idle.pop(page)[0], Why.EVICTED if verb == "evict" else Why.RESET, now)
                known.remove(page)
        assert policy.book() == idle.keys()
        for format in ("full", "window", "other", None):
            values = {page: world.value(page, now) for page in idle if format in (None, idle[page][0].format)}
            victim = policy.victim(format, now)
            assert (victim is None) == (not values)
            assert victim is None or values[victim] == min(values.values())
    return policy


@settings(max_examples=30, deadline=None)
@given(wait_s=st.floats(0.0, 1e6), seed=st.integers(0, 1000))
def test_equals_brute_force_however_late_it_is_asked(wait_s: float, seed: int) -> None:
    chance, world, known, now = random.Random(seed), World(), set[int](), 0.0
    for chain in range(8):
        now += 20 * chance.random()
        blocks = [block(100 * chain + n, n, chain=chain) for n in range(chance.randint(1, 9))]
        use(world.policy, blocks, now, known)
        for each in blocks:
            cohort = world.policy._lives[each.page].cohort
            assert cohort is not None
            world.idle[each.page] = each, cohort.row, now, cohort.since
    for _ in range(10):
        now += wait_s / 10
        victim = world.policy.victim(None, now)
        assert victim is not None
        assert world.value(victim, now) == min(world.value(page, now) for page in world.idle)


def test_where_all_costs_the_same_and_uses_grow_rarer_it_is_lru() -> None:
    """Before anything is known, and after learning from blocks of one kind that come back ever more rarely."""
    for learned in (False, True):
        policy, known, now = Survival(FLAT), set[int](), 0.0
        if learned:
            chance = random.Random(1)
            for page in range(4000):
                each = block(page)
                policy.stored(each, now)
                policy.idle(each, now)
                if chance.random() < 0.7:
                    now += 0.5 * ((1 - chance.random()) ** -1.5 - 1)
                    policy.reused(each, now)
                policy.gone(each, Why.RESET, now)
            assert policy._uses > 2000
        blocks = {10_000 + n: block(10_000 + n, n % 4, chain=("new", n // 4)) for n in range(40)}
        for group in range(10):
            use(
                policy, [each for page, each in blocks.items() if (page - 10_000) // 4 == group], now + 7 * group, known
            )
        order, now = [], now + 80.0
        while (page := policy.victim(None, now)) is not None:
            order.append(page - 10_000)
            policy.gone(blocks[page], Why.EVICTED, now)
        assert order == sorted(range(40), key=lambda n: (n // 4, -(n % 4)))


def test_of_one_release_the_cheapest_goes_first_so_that_holes_are_contiguous() -> None:
    policy, blocks = Survival(COST), [block(n, n, chain=0) for n in range(6)]
    use(policy, blocks, 0.0, set())
    order = []
    while (page := policy.victim(None, 1.0)) is not None:
        order.append(int(page))
        policy.gone(blocks[page], Why.EVICTED, 1.0)
    assert order == list(range(6))


def taught(pause_s: float, rounds: int, ttl_s: float | None = None, back: bool = True) -> tuple[Survival, float]:
    """Conversations of one block come back after so long, or never."""
    policy, now = Survival(FLAT), 0.0
    for page in range(rounds):
        each = block(page, ttl_s=ttl_s)
        policy.stored(each, now)
        policy.idle(each, now)
        now += pause_s
        if back:
            policy.reused(each, now)
        else:
            policy.victim(None, now)
        policy.gone(each, Why.RESET, now)
    return policy, now


def test_learns_when_a_kind_comes_back() -> None:
    """After ten seconds, and never later: what has waited for nine is worth more than what has waited for twenty, and
    that more than what has just begun, which LRU would keep.
    """
    policy, now = taught(10.0, 600)
    blocks = {page: block(page) for page in (9001, 9002, 9003)}
    for page, since in ((9001, 0.0), (9002, 30.0), (9003, 37.0)):
        policy.stored(blocks[page], now + since)
        policy.idle(blocks[page], now + since)
    order = []
    while (page := policy.victim(None, now + 39.0)) is not None:
        order.append(int(page))
        policy.gone(blocks[page], Why.RESET, now + 39.0)
    assert order == [9001, 9003, 9002]


def test_a_time_to_live_is_another_kind() -> None:
    policy, now = taught(10.0, 300, ttl_s=30.0)
    for page in range(5000, 5300):
        each = block(page)
        policy.stored(each, now)
        policy.idle(each, now)
        policy.victim(None, now + 60.0)
        policy.gone(each, Why.RESET, now + 60.0)
        now += 60.0
    timed, plain = block(9001, ttl_s=30.0), block(9002)
    for each in (timed, plain):
        policy.stored(each, now)
        policy.idle(each, now)
        now += 1.0
    for n in range(64):  # so that the last has been learned from
        each = block(7000 + n, ttl_s=30.0)
        policy.stored(each, now)
        policy.idle(each, now)
        policy.reused(each, now)
        policy.gone(each, Why.RESET, now)
    assert policy.victim(None, now + 2.0) == 9002, "although it was used last"


class TestGhosts:
    def test_eviction_does_not_hide_what_it_prevents(self) -> None:
        """All is evicted after 2 seconds and asked for again after 10: as if it had been there all the time."""
        hidden, seen = Survival(FLAT), Survival(FLAT)
        now = 0.0
        for policy in (hidden, seen):
            policy.stored(block(9999), now)
        for page in range(300):
            each = block(page)
            for policy in (hidden, seen):
                policy.stored(each, now)
                policy.idle(each, now)
            hidden.gone(each, Why.EVICTED, now + 2.0)
            now += 10.0
            hidden.stored(each, now)
            seen.reused(each, now)
            for policy in (hidden, seen):
                policy.gone(each, Why.RESET, now)
        rows = hidden._table, seen._table
        assert rows[0]._used == rows[1]._used
        assert rows[0]._outlived == rows[1]._outlived

    def test_a_block_goes_on_as_the_one_that_it_was(self) -> None:
        policy, each, known = Survival(FLAT), block(1), set[int]()
        policy.stored(block(9999), 0.0)
        for now in range(5):
            use(policy, [each], float(now), known)
        policy.gone(each, Why.EVICTED, 5.0)
        policy.stored(block(2, chain=1), 6.0)
        assert policy._lives[PageId(2)].uses == 6

    def test_what_is_no_longer_cached_for_another_reason_is_forgotten(self) -> None:
        policy, each = Survival(FLAT), block(1)
        use(policy, [each], 0.0, set())
        policy.gone(each, Why.RESET, 1.0)
        policy.stored(each, 2.0)
        assert policy._lives[PageId(1)].uses == 1
        assert sum(map(sum, policy._table._used)) == 0

    def test_they_are_bounded_and_the_oldest_are_forgotten_first(self) -> None:
        policy = Survival(FLAT)
        for page in range(9000, 9100):
            policy.stored(block(page), 0.0)
        for page in range(5000):
            use(policy, [block(page)], float(page), set())
            policy.gone(block(page), Why.EVICTED, page + 0.5)
        assert len(policy._ghosts["full"]) == 175
        policy.stored(block(0), 1e4)
        policy.stored(block(4999), 1e4)
        assert policy._lives[PageId(0)].uses == 1
        assert policy._lives[PageId(4999)].uses == 2
        policy.victim(None, 1e7)
        assert len(policy._due) <= 500, "cohorts of which nothing is left are not waited for"


def test_turns_are_counted_along_the_chain() -> None:
    policy, known = Survival(FLAT), set[int]()
    for turn in range(1, 5):
        blocks = [block(n, n, chain="talk") for n in range(3 * turn)]
        use(policy, blocks, float(turn), known)
        assert [policy._lives[PageId(3 * turn - n)].turn for n in (1, 3)] == [turn, turn]
    assert policy._lives[PageId(0)].turn == 1


class Counted(float):
    """Counts how often it is compared."""

    compared = 0

    def __lt__(self, other: float) -> bool:
        Counted.compared += 1
        return float(self) < float(other)

    def __mul__(self, other: float) -> Counted:
        return Counted(float(self) * other)

    __hash__ = float.__hash__


def compared(count: int, monkeypatch: pytest.MonkeyPatch) -> float:
    """Comparisons per eviction and per use, among so many blocks in conversations of 50."""
    monkeypatch.setattr(survival, "seconds_per_byte", lambda cost, each: Counted(seconds_per_byte(cost, each)))
    policy, known, chance, now = Survival(COST), set[int](), random.Random(0), 0.0
    chains = [[block(50 * chain + n, n, chain=chain) for n in range(50)] for chain in range(count // 50)]
    for chain in chains:
        now += 1.0
        use(policy, chain, now, known)
    Counted.compared, operations = 0, 0
    for _ in range(40):
        for _ in range(25):
            now += 0.01
            page = policy.victim(None, now)
            assert page is not None
            policy.gone(chains[page // 50][page % 50], Why.EVICTED, now)
            known.remove(page)
        use(policy, chance.choice(chains), now, known)
        operations += 75
    return Counted.compared / operations


def test_work_grows_with_the_logarithm(monkeypatch: pytest.MonkeyPatch) -> None:
    few, many = compared(1000, monkeypatch), compared(32_000, monkeypatch)
    assert many <= few + 2 * math.log2(32)


def test_stale_entries_do_not_pile_up() -> None:
    policy, blocks, known = Survival(COST), [block(n, n, chain=0) for n in range(10)], set[int]()
    for turn in range(3000):
        use(policy, blocks, 3.0 * turn, known)
    held = [len(each.items) for each in policy._classes.values()] + [len(f) for f in policy._firsts.values()]
    assert sum(held) < 3000
    assert len(policy._due) < 100
