"""Claims of sessions under every policy: what is claimed goes after the rest, shares are fair, nobody goes without."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvloom.errors import InternalError
from kvloom.memory.arena import Arena, page_stride
from kvloom.memory.claims import CLAIM_S
from kvloom.memory.format import PageFormat
from kvloom.memory.index import Index
from kvloom.memory.keys import root_key
from kvloom.memory.ledger import Identity, Ledger
from kvloom.policy.actions import Drop
from kvloom.policy.events import hints_of, priority_of
from kvloom.policy.retention import POLICIES
from kvloom.segment import PageId
from tiny import GIVEN

PAGE = PageFormat("full", (0, 1), 2, 32, 32, "float32")
STRIDE = page_stride(PAGE)
ROOT = root_key(weights="w", formats="f")


class Model:
    """A ledger, and which of its pages have a claim as it files them."""

    def __init__(self, policy: str, pages: int, pins: int = 0) -> None:
        self.now, self.names = 0.0, 0
        arena = Arena(300_000, 65_536)
        retention = POLICIES[policy](GIVEN)
        self.ledger = Ledger(arena, Index(1), retention, lambda: self.now, pins * STRIDE, pages * STRIDE)
        self.held: list[PageId] = []
        self.sessions: dict[PageId, int | None] = {}

    def claimed(self) -> dict[PageId, int]:
        filed = self.ledger.events.idle_blocks
        return {page: int(block.hints["session"]) for page, block in filed.items() if priority_of(block.hints) % 1}

    def store(self, session: int | None, priority: int = 50, position: int = 0, ttl_s: float | None = None) -> PageId:
        """Allocate a page and publish it. It always succeeds while anything is idle."""
        self.ledger.expire(self.now)
        claimed, before = self.claimed(), dict(self.ledger.events.idle_blocks)
        page = self.ledger.allocate(PAGE, "me")
        for gone in before.keys() - self.ledger.events.idle_blocks.keys():
            least = min(priority_of(block.hints) for block in before.values())
            assert priority_of(before[gone].hints) == least
            assert gone not in claimed or all(priority_of(each.hints) != int(least) for each in before.values())
        assert page is not None or not before, "a request that needs room gets it, whatever is claimed"
        if page is None:
            return PageId(-1)
        self.names += 1
        hints = hints_of(priority, ttl_s, session=session)
        self.ledger.publish(page, Identity(ROOT, [self.names], position, 0, 0, hints))
        self.held.append(page)
        return page

    def release(self, *pages: PageId) -> None:
        for page in pages:
            self.held.remove(page)
        self.ledger.release(pages, "me")

    def check(self) -> None:
        self.ledger.check([(page, "me") for page in self.held])
        claims = self.ledger.claims
        assert claims.bytes == len(self.claimed()) * STRIDE <= claims.budget_bytes


@pytest.mark.parametrize("policy", POLICIES)
@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 8), st.integers(0, 3))
def test_everything_adds_up_and_nobody_goes_without(policy: str, seed: int, pages: int, pins: int) -> None:
    rng, model = random.Random(seed), Model(policy, pages, pins)
    for _ in range(120):
        model.now += rng.choice([0.0, 1.0, CLAIM_S / 3])
        what, idle = rng.random(), model.ledger.droppable()
        if what < 0.45:
            model.store(
                rng.choice([None, 1, 2, 3]), rng.choice([0, 50]), 16 * rng.randrange(9), rng.choice([None, 9e3])
            )
        elif what < 0.8 and model.held:
            model.release(rng.choice(model.held))
        elif what < 0.95 and idle:
            page = rng.choice(idle)
            hints = hints_of(50, None, rng.choice([None, 5.0]), session=rng.choice([None, 1, 4]))
            model.ledger.hold(page, "me", hints)
            model.held.append(page)
        elif idle:
            model.ledger.apply(Drop(rng.choice(idle)))
        model.ledger.expire(model.now)
        model.check()


@pytest.mark.parametrize("policy", POLICIES)
def test_one_off_requests_take_what_nobody_claims(policy: str) -> None:
    model = Model(policy, 8)
    mine = [model.store(7, position=16 * n) for n in range(6)]
    model.release(*reversed(mine))
    for _ in range(40):
        model.now += 1.0
        model.release(model.store(None))
        model.check()
    assert model.claimed().keys() == set(mine)
    model.now += CLAIM_S
    for _ in range(40):
        model.now += 1.0
        model.release(model.store(None))
    assert not model.claimed()
    kept = {number for entry in model.ledger.index.entries.values() for number in entry.tokens}
    assert not kept & set(range(1, 7)), "what nobody uses goes like any other"


def test_shares_are_fair_and_what_stays_is_the_beginning() -> None:
    model = Model("lru", 8)
    first = [model.store(1, position=16 * n) for n in range(10)]
    model.release(*reversed(first))
    assert model.claimed() == dict.fromkeys(first[:8], 1), "more than there is: its beginning"
    second = [model.store(2, position=16 * n) for n in range(3)]
    model.release(*reversed(second))
    assert model.claimed() == dict.fromkeys(first[:5], 1) | dict.fromkeys(second, 2), "who has less is given all of it"
    third = [model.store(3, position=16 * n) for n in range(5)]
    model.release(*reversed(third))
    sizes = sorted(list(model.claimed().values()).count(number) for number in (1, 2, 3))
    assert sizes == [2, 3, 3]
    model.check()


def test_a_ttl_prolongs_a_claim_and_a_use_begins_it_anew() -> None:
    model = Model("lru", 4)
    page, other = model.store(1, ttl_s=3 * CLAIM_S), model.store(1)
    model.release(page, other)
    for now, left in ((CLAIM_S - 1, {page, other}), (CLAIM_S, {page}), (2 * CLAIM_S, {page})):
        model.now = now
        model.ledger.expire(now)
        assert model.claimed().keys() == left
    model.ledger.hold(page, "me")
    assert not model.claimed()
    model.held.append(page)
    model.release(page)
    for now, left in ((5 * CLAIM_S - 1, {page}), (5 * CLAIM_S, set())):
        model.now = now
        model.ledger.expire(now)
        assert model.claimed().keys() == left
    model.check()


def test_the_audit_finds_a_claim_that_is_none() -> None:
    model = Model("lru", 4)
    page = model.store(1)
    model.release(page)
    model.ledger.claims.unclaim(page)
    with pytest.raises(InternalError, match="claimed"):
        model.ledger.check()
