"""What the ledger tells, whom it believes, and what making room costs."""

from __future__ import annotations

import logging
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import pytest

from kvloom.errors import InternalError
from kvloom.memory.arena import Arena
from kvloom.memory.format import PageFormat
from kvloom.memory.index import Index
from kvloom.memory.keys import page_key, root_key
from kvloom.memory.ledger import Identity, Ledger
from kvloom.policy.actions import Drop
from kvloom.policy.events import Block, Format
from kvloom.policy.retention import POLICIES
from kvloom.policy.retention.base import Retention
from kvloom.policy.retention.lru import LeastRecentlyUsed
from kvloom.segment import PageId, Why
from tiny import GIVEN

BIG = PageFormat("full", (0, 1), 2, 32, 32, "float32")
SMALL = PageFormat("window8", (2,), 1, 16, 16, "float32")
TWIN = PageFormat("window9", (2, 3), 2, 32, 32, "float32")
SLAB_BYTES = 65_536
ROOT = root_key(weights="w", formats="f")
HINTS = {"priority": 2.0}


class Clock:
    """Seconds that pass when they are told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def make(slabs: int = 4, policy: Retention | None = None, clock: Callable[[], float] | None = None) -> Ledger:
    """Room for so many slabs, of whatever format."""
    probe = Arena(SLAB_BYTES, SLAB_BYTES)
    cost = max(probe.slab_cost_bytes(fmt) for fmt in (BIG, SMALL))
    return Ledger(Arena(slabs * cost, SLAB_BYTES), Index(2), policy or LeastRecentlyUsed(), clock or Clock())


@dataclass
class Store:
    """Takes pages and publishes them under names of their own."""

    ledger: Ledger
    names: int = 0

    def page(self, fmt: PageFormat = SMALL, position: int = 0, owner: str = "a") -> PageId:
        page = self.ledger.allocate(fmt, owner)
        assert page is not None
        self.names += 1
        group = 0 if fmt == BIG else 1
        self.ledger.publish(page, Identity(ROOT, (self.names,), position, self.names, group, HINTS))
        return page

    def idle(self, fmt: PageFormat = SMALL) -> PageId:
        page = self.page(fmt)
        self.ledger.release([page], "a")
        return page


@dataclass
class Diary:
    """Writes down what it hears."""

    lines: list[tuple] = field(default_factory=list)

    def stored(self, block: Block, now: float) -> None:
        self.lines.append(("stored", block.page, now))

    def reused(self, block: Block, now: float) -> None:
        self.lines.append(("reused", block.page, now))

    def idle(self, block: Block, now: float) -> None:
        self.lines.append(("idle", block.page, now))

    def gone(self, block: Block, why: Why, now: float) -> None:
        self.lines.append(("gone", block.page, now, why))


def test_listeners_hear_a_pages_life() -> None:
    diary, clock = Diary(), Clock()
    ledger = make(clock=clock)
    ledger.events.listeners.append(diary)
    clock.now = 1.0
    page = Store(ledger).page(position=32)
    for now, act in enumerate(
        [
            lambda: ledger.hold(page, "b"),
            lambda: ledger.release([page], "a"),
            lambda: ledger.release([page], "b"),
            lambda: ledger.hold(page, "c"),
            lambda: ledger.release([page], "c"),
            lambda: ledger.apply(Drop(page)),
        ],
        start=2,
    ):
        clock.now = float(now)
        act()
    assert diary.lines == [
        ("stored", page, 1.0),
        ("reused", page, 2.0),
        ("idle", page, 4.0),
        ("reused", page, 5.0),
        ("idle", page, 6.0),
        ("gone", page, 7.0, Why.EVICTED),
    ]


def test_a_block_says_all_there_is_to_know() -> None:
    heard: list[Block] = []

    class Keeper(Diary):
        def stored(self, block: Block, now: float) -> None:
            heard.append(block)

    ledger = make()
    ledger.events.listeners.append(Keeper())
    page = Store(ledger).page(BIG, position=48)
    assert heard == [Block(page_key(ROOT, [1]), ROOT, page, BIG, 48, (1,), BIG.page_bytes, {"priority": 2.0})]


def test_what_was_never_published_is_not_heard_of_and_a_reset_is() -> None:
    diary, ledger = Diary(), make()
    ledger.events.listeners.append(diary)
    page = ledger.allocate(SMALL, "a")
    assert page is not None
    ledger.hold(page, "b")
    ledger.release([page], "a")
    ledger.release([page], "b")
    assert diary.lines == []
    held = Store(ledger).page()
    ledger.reset()
    ledger.release([held], "a")
    assert diary.lines == [("stored", held, 0.0), ("gone", held, 0.0, Why.RESET)]
    ledger.check([])


def test_a_listener_that_fails_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Diary):
        def stored(self, block: Block, now: float) -> None:
            raise RuntimeError("the disk is full")

        idle = reused = stored

    diary, ledger = Diary(), make()
    ledger.events.listeners += [Broken(), diary]
    with caplog.at_level(logging.ERROR):
        page = Store(ledger).idle()
        ledger.hold(page, "b")
    assert [verb for verb, *_ in diary.lines] == ["stored", "idle", "reused"]
    assert ledger.events.faults == 3
    assert [record.getMessage() for record in caplog.records] == ["Broken failed: reuse may suffer, answers do not"], (
        "once, not for every page"
    )
    ledger.check([(page, "b")])


WRONG = {
    "a held page": lambda right, held, other: held,
    "a page of another format": lambda right, held, other: other,
    "an unknown page": lambda right, held, other: PageId(12345),
    "nothing": lambda right, held, other: None,
    "not a page": lambda right, held, other: [],
}


@pytest.mark.parametrize("answer", WRONG.values(), ids=WRONG)
def test_a_wrong_victim_is_a_fault_of_the_policy_and_the_longest_idle_goes(answer: Callable) -> None:
    class Wrong(LeastRecentlyUsed):
        def victim(self, format: Format | None, now: float) -> Any:
            return answer(right, held, other)

    ledger = make(2, Wrong())
    store = Store(ledger)
    other = store.idle(BIG)
    held, right = store.page(), store.idle()
    while ledger.arena.free_pages(SMALL):
        store.idle()
    assert ledger.events.faults == 0
    fresh = store.page()
    assert ledger.events.faults == 1
    assert right not in ledger.droppable()
    assert other in ledger.droppable()
    ledger.check([(held, "a"), (fresh, "a")])


def test_a_policy_that_loses_count_is_found_by_the_audit() -> None:
    class Forgetful(LeastRecentlyUsed):
        def reused(self, block: Block, now: float) -> None:
            pass

    ledger = make(policy=Forgetful())
    page = Store(ledger).idle()
    ledger.check([])
    ledger.hold(page, "b")
    with pytest.raises(InternalError, match="Forgetful takes"):
        ledger.check([(page, "b")])


def test_dropping_what_is_not_in_use_is_refused() -> None:
    with pytest.raises(InternalError, match="it is not in use"):
        make().apply(Drop(PageId(7)))


@pytest.mark.parametrize("seed", range(8))
def test_another_formats_slab_is_the_first_in_lru_order_that_nobody_holds_a_page_of(seed: int) -> None:
    """Against a brute force over all idle pages, each let go at a time of its own."""
    chance, clock = random.Random(seed), Clock()
    ledger = make(8, clock=clock)
    store, held, since = Store(ledger), [], {}
    slab_of, slabs_freed = ledger.arena.slab_of, 0
    for step in range(2000):
        clock.now += 1.0
        draw = chance.random()
        if draw < 0.45 and held:
            page = held.pop(chance.randrange(len(held)))
            ledger.release([page], "a")
            since[page] = clock.now
        elif draw < 0.45 and since:
            page = chance.choice(sorted(since))
            ledger.hold(page, "a", HINTS)
            del since[page]
            held.append(page)
        elif draw < 0.5 and since:
            page = chance.choice(sorted(since))
            ledger.apply(Drop(page))
            del since[page]
        else:
            fmt = (TWIN, BIG)[step // 100 % 2]
            if not ledger.fits({fmt: 1}):
                continue
            mine = [page for page in since if ledger.arena.slab(slab_of(page)).format == fmt]
            full = not ledger.arena.free_pages(fmt) and not ledger.arena.claimable_slabs(fmt)
            expected: set[PageId] = set()
            if full and mine:
                expected = {min(mine, key=since.__getitem__)}
            elif full:
                busy = {slab_of(page) for page in held}
                first = next(page for page in sorted(since, key=since.__getitem__) if slab_of(page) not in busy)
                expected = {page for page in since if slab_of(page) == slab_of(first)}
                slabs_freed += 1
            before = set(since)
            held.append(store.page(fmt))
            assert before - set(ledger.droppable()) == expected
            for page in expected:
                del since[page]
        ledger.check([(page, "a") for page in held])
    assert slabs_freed >= 2


# -- what making room costs ------------------------------------------------------------------------------------------


class Counted(float):
    """Seconds that count how often they are compared: what sorting does out of sight of the interpreter."""

    comparisons = 0

    def __lt__(self, other: float) -> bool:
        Counted.comparisons += 1
        return float(self) < float(other)

    def __eq__(self, other: object) -> bool:
        Counted.comparisons += 1
        return float(self) == other

    __hash__ = float.__hash__


def work(act: Callable[[], object]) -> int:
    """Bytecode instructions and comparisons of time stamps while ``act`` runs."""
    count, before = 0, Counted.comparisons

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal count
        frame.f_trace_opcodes = True
        count += event == "opcode"
        return trace

    tracer = sys.gettrace()
    sys.settrace(trace)
    try:
        act()
    finally:
        sys.settrace(tracer)
    return count + Counted.comparisons - before


def work_to_take(policy: str, wanted: PageFormat, slabs: int) -> float:
    """Per page, when all is taken by idle pages of SMALL, and one page in every tenth slab is held."""
    clock = Clock()
    ledger = make(slabs, POLICIES[policy](GIVEN), clock)
    store = Store(ledger)
    pages = []
    while not ledger.evicted_pages:
        clock.now = Counted(clock.now + 1.0)
        pages.append(store.idle())
    for page in ledger.droppable()[:: 10 * ledger.arena.pages_per_slab(SMALL)]:
        ledger.hold(page, "stuck")
    count = 60
    return work(lambda: [ledger.allocate(wanted, "b") for _ in range(count)]) / count


@pytest.mark.parametrize("wanted", [SMALL, BIG], ids=["the same format", "another format"])
@pytest.mark.parametrize("policy", POLICIES)
def test_making_room_is_logarithmic(policy: str, wanted: PageFormat) -> None:
    few, many = work_to_take(policy, wanted, 25), work_to_take(policy, wanted, 400)
    assert many < 1.3 * few, f"{few:.0f} instructions per page of {25}, {many:.0f} of 400 slabs"
