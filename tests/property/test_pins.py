"""Pins hold under every policy: nothing pinned goes while anything else is left, and nobody goes without for them."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvloom.memory.arena import Arena, page_stride
from kvloom.memory.format import PageFormat
from kvloom.memory.index import Index
from kvloom.memory.keys import root_key
from kvloom.memory.ledger import Identity, Ledger
from kvloom.policy.actions import Drop
from kvloom.policy.events import hints_of
from kvloom.policy.retention import POLICIES
from kvloom.segment import PageId
from tiny import GIVEN

PAGE = PageFormat("full", (0, 1), 2, 32, 32, "float32")
STRIDE = page_stride(PAGE)
ROOT = root_key(weights="w", formats="f")


class Model:
    """What pins there are, by brute force."""

    def __init__(self, policy: str, pages: int) -> None:
        self.now, self.names = 0.0, 0
        arena = Arena(300_000, 65_536)
        self.ledger = Ledger(arena, Index(1), POLICIES[policy](GIVEN), lambda: self.now, pages * STRIDE)
        self.room, self.refused, self.broken = pages, 0, 0
        self.held: list[PageId] = []
        self.pin_s: dict[PageId, float] = {}
        self.until: dict[PageId, float] = {}

    def pinned(self) -> set[PageId]:
        return {page for page, until in self.until.items() if until > self.now}

    def store(self, pin_s: float | None, priority: float) -> None:
        """Allocate a page and publish it. It always succeeds while anything is idle."""
        pinned, before = self.pinned(), set(self.ledger.droppable())
        page = self.ledger.allocate(PAGE, "me")
        gone = before - set(self.ledger.droppable())
        assert len(gone) <= 1
        assert page is not None or not before, "a request that needs room gets it, whatever is pinned"
        for each in gone:
            assert each not in pinned or before <= pinned, "what was pinned went although something else was idle"
            self.broken += each in pinned
            self.pin_s.pop(each)
            self.until.pop(each, None)
        if page is not None:
            self.names += 1
            self.ledger.publish(page, Identity(ROOT, [self.names], 0, 0, 0, hints_of(priority, None, pin_s)))
            self.pin_s[page] = pin_s or 0.0
            self.held.append(page)

    def release(self, rng: random.Random) -> None:
        if self.held:
            page = self.held.pop(rng.randrange(len(self.held)))
            self.ledger.release([page], "me")
            if self.pin_s[page]:
                if len(self.pinned()) < self.room:
                    self.until[page] = self.now + self.pin_s[page]
                else:
                    self.refused += 1

    def hold(self, rng: random.Random, pin_s: float | None) -> None:
        if idle := self.ledger.droppable():
            page = rng.choice(idle)
            self.ledger.hold(page, "me", hints_of(50, None, pin_s))
            self.pin_s[page] = max(self.pin_s[page], pin_s or 0.0)
            self.until.pop(page, None)
            self.held.append(page)

    def drop(self, rng: random.Random) -> None:
        if idle := self.ledger.droppable():
            page = rng.choice(idle)
            self.broken += page in self.pinned()
            self.ledger.apply(Drop(page))
            self.pin_s.pop(page)
            self.until.pop(page, None)


@pytest.mark.parametrize("policy", POLICIES)
@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 6))
def test_what_is_pinned_goes_last_and_never_more_than_may_be(policy: str, seed: int, pages: int) -> None:
    rng, model = random.Random(seed), Model(policy, pages)
    for _ in range(120):
        model.now += rng.choice([0.0, 0.5, 3.0])
        model.ledger.end_pins(model.now)
        pin_s = rng.choice([None, 0.0, 2.0, 20.0])
        what = rng.random()
        if what < 0.45:
            model.store(pin_s, rng.choice([0, 50, 100]))
        elif what < 0.8:
            model.release(rng)
        elif what < 0.95:
            model.hold(rng, pin_s)
        else:
            model.drop(rng)
        model.ledger.check([(page, "me") for page in model.held])
        pins = model.ledger.pins
        assert pins.bytes == len(model.pinned()) * STRIDE <= pages * STRIDE
        assert (pins.refused_bytes, pins.broken_bytes) == (model.refused * STRIDE, model.broken * STRIDE)


def test_a_pin_ends_when_room_is_needed_whether_or_not_somebody_asks() -> None:
    """Then it is as old as it is: it goes before what was used later."""
    model, rng = Model("lru", 2), random.Random(0)
    model.store(5.0, 50)
    model.release(rng)
    model.now = 1.0
    model.store(None, 50)
    model.release(rng)
    model.now = 6.0
    while model.ledger.arena.free_pages(PAGE) or model.ledger.arena.claimable_slabs(PAGE):
        model.store(None, 50)
    model.store(None, 50)
    assert (1,) not in [entry.tokens for entry in model.ledger.index.entries.values()]


def test_one_who_stores_the_same_extends_the_pin() -> None:
    model = Model("lru", 2)
    ledger = model.ledger
    pages = [ledger.allocate(PAGE, "me") for _ in range(2)]
    identity = Identity(ROOT, [1], 0, 0, 0, hints_of(50, None, 5.0))
    assert ledger.publish(pages[0], identity) == pages[0]
    ledger.release(pages[:1], "me")
    model.now = 2.0
    assert ledger.publish(pages[1], identity._replace(hints=hints_of(50, None, 9.0))) == pages[0]
    ledger.release(pages[1:], "me")
    for now, size in ((8.9, STRIDE), (9.0, 0)):
        ledger.end_pins(now)
        model.now = now
        ledger.check()
        assert ledger.pins.bytes == size
