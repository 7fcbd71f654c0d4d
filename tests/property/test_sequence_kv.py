"""The home of a sequence's KV: append, reserve, write, accept, take back, fork, replace and release in any order.

Every written entry is the hash of all tokens up to it, so whatever is read can be told from what should be there. After
something was left out or recoded, an entry is the hash of that as well: nobody else may read it.
"""

from __future__ import annotations

from array import array

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kvloom.attend.lists import HeadLists
from kvloom.attend.plan import Labelled
from kvloom.engine.cache_params import CacheParams
from kvloom.engine.kv import PageNames, SequenceKv
from kvloom.errors import InternalError
from kvloom.memory.arena import GRAIN_BYTES, Arena
from kvloom.memory.format import PAGE_TOKENS, PageFormat
from kvloom.memory.index import Index
from kvloom.memory.keys import extend_keys, root_key
from kvloom.memory.ledger import Ledger
from kvloom.memory.table import PageTable
from kvloom.policy.retention.lru import LeastRecentlyUsed
from kvloom.segment import PageId, PageKey, Resident, Span, SpanSet

FULL = PageFormat("full", (0,), 1, 16, 16, "float32")
NEAR = PageFormat("window20", (1,), 1, 16, 16, "float32")
HEAD = PageFormat("per-head", (), 1, 16, 16, "float32", labelled=True)
FORMATS, WINDOWS = (FULL, NEAR), (None, 20)
ROOT = root_key(weights="w", formats="f")
BASE = [1 + n * n % 7 for n in range(200)]
SIZES = st.sampled_from([1, 5, 16, 20, 33, 48, 70])
STRAY = st.sampled_from([None, None, None, 0, 3, 17])
"""Where a text leaves the one that most have in common."""
SEQUENCES = st.integers(0, 10**6)
THEN = st.sampled_from([None, "own", "child"])
"""Who computes more after something was lost."""


CACHES = st.sampled_from(
    [
        CacheParams(),
        CacheParams(priority=90),
        CacheParams(priority=0),
        CacheParams(read=False),
        CacheParams(write=False),
    ]
)


def text(start: int, size: int, stray: int | None) -> list[int]:
    tokens = BASE[start : start + size]
    return tokens if stray is None else tokens[:stray] + [9] * len(tokens[stray:])


def content(tokens: list[int], position: int, group: int, lossy: bool = False) -> int:
    """Two numbers in float32, neither of them large."""
    return hash((group, lossy, tuple(tokens[: position + 1]))) & 0x3FFFFFFF_3FFFFFFF


class KvMachine(RuleBasedStateMachine):
    budget_bytes = 900_000

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger(Arena(self.budget_bytes, 32_768), Index(2, max_ghosts=9), LeastRecentlyUsed())
        self.live: list[SequenceKv] = []
        self.accepted: set[tuple[int, ...]] = set()  # texts of which whole pages may be found
        self.lossy: dict[str, set[int]] = {}  # by owner: what was computed after something was lost
        self.names = 0

    # -- what happens ----------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.live) < 4)
    @rule(size=SIZES, stray=STRAY, cache=CACHES, count=st.sampled_from([9, 1000]))
    def start(self, size: int, stray: int | None, cache: CacheParams, count: int) -> None:
        tokens, read = text(0, size, stray), cache.read
        kv = self.make(tokens, cache)
        kv.names.extend()
        covered = 0
        for index, key in enumerate(kv.names.keys if read else ()):
            entry = self.ledger.index.find(key, kv.names.page_tokens(index))
            if entry is None or None in entry.pages or (index + 1) * PAGE_TOKENS >= len(tokens):
                break
            for group, page in enumerate(entry.pages):
                assert page is not None
                kv.adopt(group, index, page)
            covered += PAGE_TOKENS
        kv.start(SpanSet.full(len(tokens)) - SpanSet.full(covered))
        self.live.append(kv)
        self.compute(len(self.live) - 1, count, loads=False)

    @precondition(lambda self: self.live)
    @rule(which=SEQUENCES, size=SIZES, stray=STRAY, compute=st.booleans(), accept=st.sampled_from([None, 0, 9, 1000]))
    def append(self, which: int, size: int, stray: int | None, compute: bool, accept: int | None) -> None:
        """What is a draft until it is accepted, as far as it is."""
        kv = self.pick(which)
        if len(kv.tokens) + size <= len(BASE):
            kv.append(*text(len(kv.tokens), size, stray))
            if compute:
                self.compute(which, 1000, loads=False)
            if accept is not None:
                self.publish(which, accept)

    @precondition(lambda self: self.live)
    @rule(which=SEQUENCES, count=st.sampled_from([1, 7, 20, 1000]), loads=st.booleans())
    def compute(self, which: int, count: int, loads: bool) -> None:
        """Or load what is pending."""
        kv = self.pick(which)
        spans = kv.pending.first(count) if loads else kv.ready(count)
        if spans and kv.reserve(spans):
            if not loads:
                self.sees_all(kv, spans)
            self.write(kv, spans)
            kv.written(spans)

    @precondition(lambda self: self.live)
    @rule(which=SEQUENCES, more=st.sampled_from([0, 3, 16, 1000]))
    def publish(self, which: int, more: int) -> None:
        kv = self.pick(which)
        kv.publish(min(len(kv.tokens), kv.accepted + more))
        self.note_accepted(kv)

    @precondition(lambda self: self.live)
    @rule(which=SEQUENCES, back=SIZES, anywhere=st.booleans())
    def truncate(self, which: int, back: int, anywhere: bool) -> None:
        kv = self.pick(which)
        length = max(0 if anywhere else kv.accepted, len(kv.tokens) - back)
        before, accepted = list(kv.tokens), kv.accepted
        beyond = kv.names.keys[length // PAGE_TOKENS :]
        try:
            kv.truncate(length)
        except InternalError:
            assert length < accepted, "what was not accepted can always be taken back"
            assert kv.tokens == before
            return
        assert kv.tokens == before[:length]
        assert length >= kv.replaced, "what lists replaced does not come back"
        assert not (kv.missing | kv.pending) - SpanSet.full(length)
        assert kv.owner not in [self.ledger.index.coming_from(key) for key in beyond], "promised what is gone"
        for table in kv.tables:
            assert all(index * PAGE_TOKENS < length for index, _ in table.pages()), "a page beyond the end"
        if kv.owner in self.lossy:
            self.lossy[kv.owner] = {position for position in self.lossy[kv.owner] if position < length}

    @precondition(lambda self: self.live and len(self.live) < 4)
    @rule(which=SEQUENCES, cache=CACHES)
    def fork(self, which: int, cache: CacheParams) -> None:
        parent = self.pick(which)
        child = self.make(list(parent.tokens), cache)
        parent.fork(child)
        assert (child.missing, child.pending) == (parent.missing | parent.pending, SpanSet())
        assert child.held_bytes == parent.held_bytes
        if parent.owner in self.lossy:
            self.lossy[child.owner] = set(self.lossy[parent.owner])
        self.note_accepted(child)
        self.live.append(child)

    @precondition(lambda self: self.live)
    @rule(which=SEQUENCES, back=st.integers(1, 14), fork=st.sampled_from([None, "parent", "child"]))
    def rewrite(self, which: int, back: int, fork: str | None) -> None:
        """The last tokens change, where others may hold the page or find it."""
        if fork is not None and len(self.live) < 4:
            self.fork(which, CacheParams())
            which = len(self.live) - 1 if fork == "child" else which % (len(self.live) - 1)
        kv = self.pick(which)
        before = len(kv.tokens)
        self.truncate(which, back, anywhere=True)
        if len(kv.tokens) < before:
            kv.append(*[10 + self.names % 3] * back)
            self.compute(which, 1000, loads=False)

    @precondition(lambda self: self.live)
    @rule(which=SEQUENCES)
    def redraft(self, which: int) -> None:
        """A draft is taken back, and what takes its place is accepted before it is computed."""
        kv = self.pick(which)
        length = len(kv.tokens)
        if length + 33 <= len(BASE):
            kv.append(*[30] * 33)
            self.compute(which, 1000, loads=False)
            self.truncate(which, 33, anywhere=True)
            assert len(kv.tokens) == length
            kv.append(*[31] * 33)
            self.publish(which, 1000)

    @precondition(lambda self: self.live)
    @rule(
        which=SEQUENCES,
        start=st.integers(0, 150),
        size=st.integers(1, 60),
        then=st.sampled_from(["", "fork", "compute"]),
    )
    def expect(self, which: int, start: int, size: int, then: str) -> None:
        kv = self.pick(which)
        spans = kv.missing & SpanSet((Span(start, start + size),))
        if not spans:
            return
        if len(kv.tokens) - 1 in spans:
            with pytest.raises(InternalError, match="cannot be waited for"):
                kv.expect(spans)
        elif kv.reserve(spans):
            kv.expect(spans)
            if then == "fork" and len(self.live) < 4:
                self.fork(which, CacheParams())
            elif then == "compute":  # as far as that goes without it
                self.compute(which, 1000, loads=False)
                self.publish(which, 1000)
            assert not any(kv.pending.spans[0].start < p for span in kv.ready(1000) for p in span.positions())

    @precondition(lambda self: self.live)
    @rule(which=SEQUENCES, count=st.integers(1, 60))
    def give_up(self, which: int, count: int) -> None:
        kv = self.pick(which)
        spans, lacking = kv.pending.first(count), kv.missing | kv.pending
        kv.give_up(spans)
        assert kv.missing | kv.pending == lacking
        assert kv.missing & spans == spans

    @precondition(lambda self: self.live)
    @rule(which=SEQUENCES, group=st.integers(0, 1), below=st.integers(1, 96), count=st.integers(1, 9), then=THEN)
    def replace(self, which: int, group: int, below: int, count: int, then: str | None) -> None:
        kv = self.pick(which)
        lacking = (kv.missing | kv.pending).spans
        stop = min(below, kv.accepted, lacking[0].start if lacking else 10**6)
        extent = kv.take(HEAD, count)
        if extent is None:
            return
        self.ledger.check(self.holdings())
        if then is None:
            return  # what has no place is given back with all the rest
        if kv.owner not in self.lossy:
            self.accepted.add(tuple(kv.tokens[:stop]))  # what the cut leaves of its page is exact, and final
        self.lossy.setdefault(kv.owner, set())
        ids, one = np.array(extent.pages, np.int32), np.array([0, count], np.int32)
        kv.replace(group, stop, [HeadLists(HEAD, Labelled(), 1, 1, ids, one)], [extent])
        assert kv.held_bytes >= count * HEAD.page_bytes
        self.go_on(which, then)

    @precondition(lambda self: self.live)
    @rule(which=SEQUENCES, group=st.integers(0, 1), page=st.integers(0, 9), then=THEN)
    def recode(self, which: int, group: int, page: int, then: str | None) -> None:
        kv = self.pick(which)
        table = kv.tables[group]
        final = [index for index, _ in table.pages() if index < kv.accepted // PAGE_TOKENS and table.is_full(index)]
        sealed = [index for index in final if not table.writable[index] and index not in _recoded(table)]
        if sealed:
            with np.errstate(all="ignore"):  # what nobody wrote may be any number
                done = kv.recode(group, sealed[page % len(sealed)], "int8")
            if done:
                self.lossy.setdefault(kv.owner, set())
                self.go_on(which, then)

    @precondition(lambda self: self.live)
    @rule(which=SEQUENCES, broken=st.booleans())
    def release(self, which: int, broken: bool) -> None:
        kv = self.pick(which)
        self.note_accepted(kv)
        kv.abandon() if broken else kv.release()
        assert not list(kv.holdings())
        assert kv.missing == SpanSet.full(len(kv.tokens))
        self.lossy.pop(kv.owner, None)
        self.live.remove(kv)

    @rule()
    def reset(self) -> None:
        self.ledger.reset()

    # -- what must hold --------------------------------------------------------------------------------------------

    @invariant()
    def adds_up(self) -> None:
        self.ledger.check(self.holdings())
        assert len({kv.owner for kv in self.live}) == len(self.live)

    @invariant()
    def only_who_can_keep_it_promises(self) -> None:
        names = [name for kv in self.live for name in kv.names.keys]
        owners = [self.ledger.index.coming_from(name) for name in names]
        assert set(owners) <= {None, *(kv.owner for kv in self.live if kv.owner not in self.lossy)}

    @invariant()
    def what_is_resident_reads_back(self) -> None:
        for kv in self.live:
            lacking = kv.missing | kv.pending
            assert not kv.missing & kv.pending
            resident = [segment.span for segment in kv.context() if isinstance(segment.state, Resident)]
            assert SpanSet.of(resident) == SpanSet.full(len(kv.tokens)) - lacking
            lossy = self.lossy.get(kv.owner, set())
            for group, table in enumerate(kv.tables):
                for index, page in table.pages():
                    for slot in range(PAGE_TOKENS if index not in _recoded(table) else 0):
                        position = index * PAGE_TOKENS + slot
                        if table.filled[index] >> slot & 1:
                            assert position < len(kv.tokens), "marks beyond the end"
                            if position not in lacking:
                                right = content(kv.tokens, position, group, position in lossy)
                                assert self.cell(page, slot) == right

    @invariant()
    def only_what_was_accepted_is_found(self) -> None:
        allowed: dict[tuple[PageKey, tuple[int, ...]], tuple[int, ...]] = {}
        for final in self.accepted:
            keys: list[PageKey] = []
            extend_keys(keys, ROOT, list(final))
            for n, parent in enumerate([ROOT, *keys]):
                for size in range(1, len(final[n * PAGE_TOKENS : (n + 1) * PAGE_TOKENS]) + 1):
                    allowed[parent, final[n * PAGE_TOKENS :][:size]] = final[: n * PAGE_TOKENS + size]
        for entry in self.ledger.index.entries.values():
            final = allowed.get((entry.parent, entry.tokens))
            assert final is not None, f"{entry.tokens} at {entry.position} was not accepted"
            for group, page in enumerate(entry.pages):
                for slot in range(len(entry.tokens) if page is not None else 0):
                    assert self.cell(page, slot) == content(list(final), entry.position + slot, group)

    # -- inside ----------------------------------------------------------------------------------------------------

    def make(self, tokens: list[int], cache: CacheParams) -> SequenceKv:
        self.names += 1
        tables = tuple(PageTable(fmt, window) for fmt, window in zip(FORMATS, WINDOWS, strict=True))
        return SequenceKv(self.ledger, f"s{self.names}", PageNames(ROOT, tokens), tables, cache)

    def go_on(self, which: int, then: str | None) -> None:
        if then == "child" and len(self.live) < 4:
            self.fork(which, CacheParams())
            which = len(self.live) - 1
        kv = self.pick(which)
        if then is not None and len(kv.tokens) + 33 <= len(BASE):
            kv.append(*[20 + self.names % 3] * 33)
            self.compute(which, 1000, loads=False)
            self.publish(which, 1000)

    def note_accepted(self, kv: SequenceKv) -> None:
        if kv.cache.write and kv.owner not in self.lossy:
            self.accepted.add(tuple(kv.tokens[: kv.accepted]))

    def pick(self, which: int) -> SequenceKv:
        return self.live[which % len(self.live)]

    def holdings(self) -> list[tuple[PageId, str]]:
        return [held for kv in self.live for held in kv.holdings()]

    def cell(self, page: int, slot: int) -> int:
        start = page * GRAIN_BYTES + 8 * slot
        return int(self.ledger.arena.memory[start : start + 8].view(np.int64)[0])

    def write(self, kv: SequenceKv, spans: SpanSet) -> None:
        """As a step does: where a page is writable, and nowhere else."""
        lossy = self.lossy.get(kv.owner)
        if lossy is not None:
            lossy |= {position for span in spans for position in span.positions()}
        for group, table in enumerate(kv.tables):
            for position in [p for span in spans for p in span.positions()]:
                index, slot = divmod(position, PAGE_TOKENS)
                page = table.get(index)
                assert page is not None
                if table.writable[index]:
                    start = page * GRAIN_BYTES + 8 * slot
                    value = array("q", [content(kv.tokens, position, group, lossy is not None)]).tobytes()
                    self.ledger.arena.memory[start : start + 8] = np.frombuffer(value, np.uint8)

    def sees_all(self, kv: SequenceKv, spans: SpanSet) -> None:
        """Everything that these rows look at is there, or was replaced by lists."""
        for group, (table, window) in enumerate(zip(kv.tables, WINDOWS, strict=True)):
            low = kv.replaced
            for position in [p for span in spans for p in span.positions()]:
                first = 0 if window is None else max(0, position - window + 1)
                for seen in range(max(first, low), position):
                    index, slot = divmod(seen, PAGE_TOKENS)
                    there = table.get(index) is not None and table.filled[index] >> slot & 1
                    assert there or seen in spans, f"{position} of group {group} looks for {seen} in vain"


def _recoded(table: PageTable) -> set[int]:
    return {index for indices in table.others.values() for index in indices}


class TightMachine(KvMachine):
    budget_bytes = 200_000


TestKv = KvMachine.TestCase
TestTight = TightMachine.TestCase
for case in (TestKv, TestTight):
    case.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)


def test_a_draft_page_of_which_the_accepted_part_is_found_is_not_found_whole() -> None:
    """Two hold it, one ends, then the other accepts the draft."""
    machine = KvMachine()
    machine.start(20, None, CacheParams(), 1000)
    machine.append(0, 33, None, compute=True, accept=None)
    machine.fork(0, CacheParams())
    machine.release(0, broken=False)
    machine.publish(0, 1000)
    machine.adds_up()
    machine.only_what_was_accepted_is_found()
    machine.release(0, broken=False)
    machine.adds_up()
    machine.reset()
    machine.adds_up()


def test_a_window_keeps_what_the_rows_after_pending_ones_see() -> None:
    machine = KvMachine()
    machine.start(48, None, CacheParams(), 1000)
    machine.append(0, 48, None, compute=False, accept=1000)
    kv = machine.live[0]
    assert kv.reserve(kv.missing)
    kv.expect(SpanSet((Span(48, 60),)))
    kv.written(kv.missing)
    kv.publish(len(kv.tokens))
    assert kv.tables[1].trimmed == (48 - 20 + 1) // PAGE_TOKENS
