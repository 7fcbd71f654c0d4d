"""Whatever is asked of the ledger, in whatever order, every byte stays accounted for."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from kvloom.errors import InternalError
from kvloom.memory.arena import Arena
from kvloom.memory.format import PageFormat
from kvloom.memory.index import Index
from kvloom.memory.keys import page_key, root_key
from kvloom.memory.ledger import Identity, Ledger
from kvloom.memory.table import FULL_MASK, PageTable
from kvloom.policy.actions import Drop, Recode
from kvloom.policy.events import Block, Format, Hints, with_priority
from kvloom.policy.retention import POLICIES
from kvloom.policy.retention.base import Retention
from kvloom.policy.retention.chunk_share import ChunkShare
from kvloom.policy.retention.lru import LeastRecentlyUsed
from kvloom.policy.retention.session_share import SessionShare
from kvloom.segment import PageId
from tiny import GIVEN

HEAD = PageFormat("per-head", (), 1, 32, 32, "float32", labelled=True)
BIG = PageFormat("full", (0, 1), 2, 32, 32, "float32")
SMALL = PageFormat("window8", (2,), 1, 16, 16, "float16")
GROUPS = [BIG, SMALL, HEAD]
ROOT = root_key(weights="w", formats="f")
PRIORITIES = st.sampled_from([50.0, 50.0, 0.0, 70.0, 100.0])


class Adversary(LeastRecentlyUsed):
    """Knows the order, and says anything but: what is held, unknown, gone, of another format, or no page at all."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[PageId] = []
        self.turn = 0

    def reused(self, block: Block, now: float) -> None:
        super().reused(block, now)
        self.heard.append(block.page)
        if len(self.heard) % 5 == 0:
            raise RuntimeError("no more")

    def idle(self, block: Block, now: float) -> None:
        super().idle(block, now)
        self.heard.append(block.page)

    def victim(self, format: Format | None, now: float) -> PageId | None:
        self.turn += 1
        answers = [
            super().victim(None, now),
            self.heard[self.turn % len(self.heard)] if self.heard else None,
            self.heard[0] if self.heard else None,
            None,
            PageId(-self.turn),
            "page",
            [],
        ]
        if self.turn % (len(answers) + 1) == 0:
            raise ValueError("cannot decide")
        return answers[self.turn % len(answers)]  # type: ignore[return-value]

    def fresh(self) -> Adversary:
        return Adversary()


class LedgerMachine(RuleBasedStateMachine):
    policy: Callable[[], Retention] = LeastRecentlyUsed
    exact = True

    def __init__(self) -> None:
        super().__init__()
        self.time = 0.0
        self.ledger = Ledger(Arena(400_000, 65_536), Index(3), type(self).policy(), clock=lambda: self.time)
        self.held: list[tuple[PageId, str]] = []
        self.names = 0
        self.asked: dict[PageId, float] = {}

    @rule(fmt=st.sampled_from([BIG, SMALL]), owner=st.sampled_from("abc"))
    def allocate(self, fmt: PageFormat, owner: str) -> None:
        fits, extents = self.ledger.fits({fmt: 1}), self.ledger.arena.extents
        page = self.ledger.allocate(fmt, owner)
        assert page is not None or not fits, "what fits can be had"
        assert page is None or fits or extents, "what does not fit cannot: but extents that go give back more"
        if page is not None:
            assert page not in {p for p, _ in self.held}, "a held page was given out again"
            self.held.append((page, owner))

    @rule(count=st.integers(1, 40), owner=st.sampled_from("abc"))
    def allocate_extent(self, count: int, owner: str) -> None:
        fits = self.ledger.fits({HEAD: count})
        extent = self.ledger.allocate_extent(HEAD, count, owner)
        assert (extent is not None) == fits
        if extent is not None:
            assert len(set(extent.pages)) == count
            self.held.append((extent.page, owner))

    @precondition(lambda self: self.held)
    @rule(data=st.data(), owner=st.sampled_from("abc"), priority=PRIORITIES)
    def share(self, data: st.DataObject, owner: str, priority: float) -> None:
        page, _ = data.draw(st.sampled_from(self.held))
        self.hold(page, owner, priority)

    def hold(self, page: PageId, owner: str, priority: float) -> None:
        self.ledger.hold(page, owner, with_priority(priority))
        self.held.append((page, owner))
        if page in self.asked:
            self.asked[page] = max(self.asked[page], priority)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), priority=PRIORITIES)
    def publish(self, data: st.DataObject, priority: float) -> None:
        page, _ = data.draw(st.sampled_from(self.held))
        if page in self.ledger.index:
            return
        self.names += 1
        fmt = self.format_of(page)
        if fmt not in GROUPS:
            assert self.ledger.publish(page, Identity(ROOT, [self.names], 0, 0, 0)) == page
            assert page not in self.ledger.index, "what was recoded is not what its key promises"
            return
        group = GROUPS.index(fmt)
        tokens = [self.names % 3, self.names]
        assert self.ledger.publish(page, Identity(ROOT, tokens, 0, 0, group, self.hints(priority))) == page
        self.asked[page] = priority
        assert self.ledger.index.find(page_key(ROOT, tokens), tokens).pages[group] == page

    def hints(self, priority: float) -> Hints:
        """Of what is published as the number ``names``."""
        return with_priority(priority)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        held = data.draw(st.sampled_from(self.held))
        self.time += 1.0
        self.ledger.release([held[0]], held[1])
        self.held.remove(held)

    @rule(data=st.data(), owner=st.sampled_from("abc"), priority=PRIORITIES)
    def revive(self, data: st.DataObject, owner: str, priority: float) -> None:
        if cached := sorted(self.ledger.droppable()):
            self.hold(data.draw(st.sampled_from(cached)), owner, priority)

    @rule(data=st.data(), priority=PRIORITIES)
    def publish_a_twin(self, data: st.DataObject, priority: float) -> None:
        """Of what is stored already: the page that is there has the higher priority of both."""
        stored = sorted(page for page in self.asked if page in self.ledger.index)
        if stored and (page := self.ledger.allocate(SMALL, "twin")) is not None:
            first = data.draw(st.sampled_from(stored))
            if first in self.ledger.index and self.format_of(first) == SMALL:
                entry = self.ledger.index.entry_of(first)
                identity = Identity(ROOT, entry.tokens, 0, 0, 1, with_priority(priority))
                assert self.ledger.publish(page, identity) == first
                self.asked[first] = max(self.asked[first], priority)
            self.ledger.release([page], "twin")

    def format_of(self, page: PageId) -> PageFormat:
        return self.ledger.arena.slab(self.ledger.arena.slab_of(page)).format

    @rule()
    def victims_have_the_lowest_priority(self) -> None:
        if self.exact:
            self.asked = {page: asked for page, asked in self.asked.items() if page in self.ledger.index}
            idle = self.ledger.droppable()
            for fmt in (BIG, SMALL, HEAD):
                of_format = [self.asked[page] for page in idle if self.format_of(page) == fmt]
                victim = self.ledger.retention.victim(fmt, self.time)
                assert (None if victim is None else self.asked[victim]) == min(of_format, default=None)

    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        if cached := sorted(self.ledger.droppable()):
            self.ledger.apply(Drop(data.draw(st.sampled_from(cached))))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def dropping_a_held_page_is_refused(self, data: st.DataObject) -> None:
        with pytest.raises(InternalError):
            self.ledger.apply(Drop(data.draw(st.sampled_from(self.held))[0]))

    @precondition(lambda self: self.held)
    @rule(data=st.data(), codec=st.sampled_from(["int8", "bfloat16"]))
    def recode(self, data: st.DataObject, codec: str) -> None:
        """Any of a page's holders; some of whom have it twice, or not in their table, or not sealed."""
        page, _ = data.draw(st.sampled_from(self.held))
        owners = sorted({owner for held, owner in self.held if held == page})
        some = data.draw(st.lists(st.sampled_from(owners), min_size=1, unique=True))
        action, fmt = Recode(page, codec, tuple(some)), self.format_of(page)
        tables = {owner: PageTable(fmt, None) for owner in some}
        sealed = data.draw(st.sampled_from([True, True, True, False]))
        for owner in some:
            tables[owner].put(3, page, filled=FULL_MASK, writable=not sealed)
        once = all(self.held.count((page, owner)) == 1 for owner in some)
        if not sealed or not once or fmt.labelled or fmt.codec == codec:
            with pytest.raises(InternalError):
                self.ledger.recode(action, tables)
            return
        fits, published = self.ledger.fits({fmt.recoded(codec): 1}), page in self.ledger.index
        new = self.ledger.recode(action, tables)
        assert new is not None or not fits
        if new is None:
            return
        for owner in some:
            self.held.remove((page, owner))
            self.held.append((new, owner))
            assert tables[owner].get(3) == new
            assert tables[owner].format_of(3) == self.format_of(new) == fmt.recoded(codec)
            assert not tables[owner].writable[3]
        assert new not in self.ledger.index
        assert (page in self.ledger.index) == published, "those who find it read what was there"

    @rule()
    def reset(self) -> None:
        self.ledger.reset()
        assert self.ledger.cached_pages == 0
        assert not list(self.ledger.index.pages())

    @invariant()
    def adds_up(self) -> None:
        self.ledger.check(self.held)
        if self.exact:
            assert self.ledger.events.faults == self.ledger._slab_victims.events.faults == 0
        assert set(self.ledger.droppable()).isdisjoint(page for page, _ in self.held)
        assert self.ledger.arena.used_bytes <= self.ledger.arena.budget_bytes


class AdversaryMachine(LedgerMachine):
    policy = Adversary
    exact = False


TestLedger = LedgerMachine.TestCase
TestUnderAnAdversary = AdversaryMachine.TestCase
for case in (TestLedger, TestUnderAnAdversary):
    case.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)


class ChunksMachine(LedgerMachine):
    """Every second thing is of a chunk, and 100,000 bytes are theirs."""

    def hints(self, priority: float) -> Hints:
        return {**with_priority(priority), "chunk": 1.0} if self.names % 2 else with_priority(priority)


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_under_every_policy_with_a_share_of_chunks(name: str) -> None:
    machine = type(
        f"{name}_chunks_machine", (ChunksMachine,), {"policy": lambda: ChunkShare(POLICIES[name](GIVEN), 100_000)}
    )
    run_state_machine_as_test(machine, settings=settings(max_examples=10, stateful_step_count=60, deadline=None))


class SessionsMachine(LedgerMachine):
    """Two of three things are of sessions, and 100,000 bytes are everybody else's."""

    def hints(self, priority: float) -> Hints:
        session = {"session": float(self.names % 3)} if self.names % 3 else {}
        return {**with_priority(priority), **session}


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_under_every_policy_with_a_share_of_sessions(name: str) -> None:
    machine = type(
        f"{name}_sessions_machine", (SessionsMachine,), {"policy": lambda: SessionShare(POLICIES[name](GIVEN), 100_000)}
    )
    run_state_machine_as_test(machine, settings=settings(max_examples=10, stateful_step_count=60, deadline=None))


@pytest.mark.parametrize("name", sorted(POLICIES.keys() - {"lru"}))
def test_under_every_policy(name: str) -> None:
    machine = type(f"{name}_machine", (LedgerMachine,), {"policy": lambda: POLICIES[name](GIVEN)})
    run_state_machine_as_test(machine, settings=settings(max_examples=25, stateful_step_count=60, deadline=None))


def test_giving_everything_back_empties_the_arena() -> None:
    ledger = Ledger(Arena(400_000, 65_536), Index(2), LeastRecentlyUsed())
    pages = []
    while (page := ledger.allocate(BIG if len(pages) % 2 else SMALL, "a")) is not None:
        pages.append(page)
    assert ledger.arena.used_bytes > 300_000
    ledger.release(pages, "a")
    assert ledger.arena.used_bytes == 0
    ledger.check([])
