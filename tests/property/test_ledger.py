"""Whatever is asked of the ledger, in whatever order, every byte stays accounted for."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kvloom.errors import InternalError
from kvloom.memory.arena import Arena
from kvloom.memory.format import PageFormat
from kvloom.memory.index import Index
from kvloom.memory.keys import page_key, root_key
from kvloom.memory.ledger import Identity, Ledger
from kvloom.policy.actions import Drop
from kvloom.policy.retention.lru import LeastRecentlyUsed

BIG = PageFormat("full", (0, 1), 2, 32, 32, "float32")
SMALL = PageFormat("window8", (2,), 1, 16, 16, "float16")
ROOT = root_key(weights="w", formats="f")


class LedgerMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.time = 0.0
        self.ledger = Ledger(Arena(400_000, 65_536), Index(2), LeastRecentlyUsed(), clock=lambda: self.time)
        self.held: list[tuple[int, str]] = []
        self.names = 0

    @rule(fmt=st.sampled_from([BIG, SMALL]), owner=st.sampled_from("abc"))
    def allocate(self, fmt: PageFormat, owner: str) -> None:
        fits = self.ledger.fits({fmt: 1}) is None
        page = self.ledger.allocate(fmt, 0, owner)
        assert (page is not None) == fits, "fits() and allocate() disagree"
        if page is not None:
            assert page not in {p for p, _ in self.held}, "a held page was given out again"
            self.held.append((page, owner))

    @precondition(lambda self: self.held)
    @rule(data=st.data(), owner=st.sampled_from("abc"))
    def share(self, data: st.DataObject, owner: str) -> None:
        page, _ = data.draw(st.sampled_from(self.held))
        self.ledger.hold(page, owner)
        self.held.append((page, owner))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def publish(self, data: st.DataObject) -> None:
        page, _ = data.draw(st.sampled_from(self.held))
        if page in self.ledger.index:
            return
        group = 0 if self.ledger.arena.slab(self.ledger.arena.slab_of(page)).format == BIG else 1
        self.names += 1
        tokens = [self.names % 3, self.names]
        assert self.ledger.publish(page, Identity(ROOT, tokens, 0, 0, group)) == page
        assert self.ledger.index.find(page_key(ROOT, tokens), tokens).pages[group] == page

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        held = data.draw(st.sampled_from(self.held))
        self.time += 1.0
        self.ledger.release([held[0]], held[1])
        self.held.remove(held)

    @rule(data=st.data(), owner=st.sampled_from("abc"))
    def revive(self, data: st.DataObject, owner: str) -> None:
        if cached := sorted(self.ledger.droppable()):
            page = data.draw(st.sampled_from(cached))
            self.ledger.hold(page, owner)
            self.held.append((page, owner))

    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        if cached := sorted(self.ledger.droppable()):
            self.ledger.apply(Drop(data.draw(st.sampled_from(cached))))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def dropping_a_held_page_is_refused(self, data: st.DataObject) -> None:
        with pytest.raises(InternalError):
            self.ledger.apply(Drop(data.draw(st.sampled_from(self.held))[0]))

    @rule()
    def reset(self) -> None:
        self.ledger.reset()
        assert self.ledger.cached_pages == 0
        assert not list(self.ledger.index.pages())

    @invariant()
    def adds_up(self) -> None:
        self.ledger.check(self.held)
        assert self.ledger.held_pages == len({page for page, _ in self.held})
        assert self.ledger.arena.used_bytes <= self.ledger.arena.budget_bytes


TestLedger = LedgerMachine.TestCase
TestLedger.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)


def test_giving_everything_back_empties_the_arena() -> None:
    ledger = Ledger(Arena(400_000, 65_536), Index(2), LeastRecentlyUsed())
    pages = []
    while (page := ledger.allocate(BIG if len(pages) % 2 else SMALL, 0, "a")) is not None:
        pages.append(page)
    assert ledger.arena.used_bytes > 300_000
    ledger.release(pages, "a")
    assert ledger.arena.used_bytes == 0
    ledger.check([])
