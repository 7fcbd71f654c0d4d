"""The home of a sequence's KV: append, reserve, write, accept, take back, fork, replace and release in any order.

Every written entry is the hash of all tokens up to it, so whatever is read can be told from what should be there.
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
from kvloom.segment import PageId, PageKey, Span, SpanSet

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


def content(tokens: list[int], position: int, group: int) -> int:
    return hash((group, tuple(tokens[: position + 1]))) & (2**63 - 1)


class KvMachine(RuleBasedStateMachine):
    budget_bytes = 900_000

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger(Arena(self.budget_bytes, 32_768), Index(2, max_ghosts=9), LeastRecentlyUsed())
        self.live: list[SequenceKv] = []
        self.accepted: set[tuple[int, ...]] = set()  # texts of which whole pages may be found
        self.names = 0

    # -- what happens ----------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.live) < 4)
    @rule(size=SIZES, stray=STRAY, cache=CACHES)
    def start(self, size: int, stray: int | None, cache: CacheParams) -> None:
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
        self.compute(len(self.live) - 1, 1000, loads=False)

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
        if kv.cache.write and not kv.lists:
            self.accepted.add(tuple(kv.tokens[: kv.accepted]))

    @precondition(lambda self: self.live)
    @rule(which=SEQUENCES, back=SIZES, anywhere=st.booleans())
    def truncate(self, which: int, back: int, anywhere: bool) -> None:
        kv = self.pick(which)
        length = max(0 if anywhere else kv.accepted, len(kv.tokens) - back)
        before, accepted = list(kv.tokens), kv.accepted
        try:
            kv.truncate(length)
        except InternalError:
            assert length < accepted, "what was not accepted can always be taken back"
            assert kv.tokens == before
            return
        assert kv.tokens == before[:length]

    @precondition(lambda self: self.live and len(self.live) < 4)
    @rule(which=SEQUENCES, cache=CACHES)
    def fork(self, which: int, cache: CacheParams) -> None:
        parent = self.pick(which)
        child = self.make(list(parent.tokens), cache)
        parent.fork(child)
        if cache.write and not parent.lists:
            self.accepted.add(tuple(child.tokens[: child.accepted]))
        self.live.append(child)

    @precondition(lambda self: self.live)
    @rule(which=SEQUENCES, start=st.integers(0, 150), size=st.integers(1, 60))
    def expect(self, which: int, start: int, size: int) -> None:
        kv = self.pick(which)
        spans = kv.missing & SpanSet((Span(start, start + size),))
        if not spans:
            return
        if len(kv.tokens) - 1 in spans:
            with pytest.raises(InternalError, match="cannot be waited for"):
                kv.expect(spans)
        elif kv.reserve(spans):
            kv.expect(spans)
            assert not any(kv.pending.spans[0].start < p for span in kv.ready(1000) for p in span.positions())

    @precondition(lambda self: self.live)
    @rule(which=SEQUENCES, count=st.integers(1, 60))
    def give_up(self, which: int, count: int) -> None:
        kv = self.pick(which)
        kv.give_up(kv.pending.first(count))

    @precondition(lambda self: self.live)
    @rule(which=SEQUENCES, group=st.integers(0, 1), pages=st.integers(1, 6), count=st.integers(1, 9))
    def replace(self, which: int, group: int, pages: int, count: int) -> None:
        kv = self.pick(which)
        lacking = (kv.missing | kv.pending).spans
        stop = min(pages, kv.accepted // PAGE_TOKENS, (lacking[0].start if lacking else 10**6) // PAGE_TOKENS)
        extent = kv.take(HEAD, count)
        if extent is None:
            return
        self.ledger.check(self.holdings())
        ids, one = np.array(extent.pages, np.int32), np.array([0, count], np.int32)
        kv.replace(group, stop, [HeadLists(HEAD, Labelled(), 1, 1, ids, one)], [extent])
        assert kv.held_bytes >= count * HEAD.page_bytes

    @precondition(lambda self: self.live)
    @rule(which=SEQUENCES, broken=st.booleans())
    def release(self, which: int, broken: bool) -> None:
        kv = self.pick(which)
        if kv.cache.write and not kv.lists:
            self.accepted.add(tuple(kv.tokens[: kv.accepted]))
        kv.abandon() if broken else kv.release()
        assert not list(kv.holdings())
        assert kv.missing == SpanSet.full(len(kv.tokens))
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
    def what_is_resident_reads_back(self) -> None:
        for kv in self.live:
            lacking = kv.missing | kv.pending
            assert not kv.missing & kv.pending
            for group, table in enumerate(kv.tables):
                for index, page in table.pages():
                    for slot in range(PAGE_TOKENS):
                        position = index * PAGE_TOKENS + slot
                        if table.filled[index] >> slot & 1:
                            assert position < len(kv.tokens), "marks beyond the end"
                            if position not in lacking and not kv.lists:
                                assert self.cell(page, slot) == content(kv.tokens, position, group)

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

    def pick(self, which: int) -> SequenceKv:
        return self.live[which % len(self.live)]

    def holdings(self) -> list[tuple[PageId, str]]:
        return [held for kv in self.live for held in kv.holdings()]

    def cell(self, page: int, slot: int) -> int:
        start = page * GRAIN_BYTES + 8 * slot
        return int(self.ledger.arena.memory[start : start + 8].view(np.int64)[0])

    def write(self, kv: SequenceKv, spans: SpanSet) -> None:
        """As a step does: where a page is writable, and nowhere else."""
        for group, table in enumerate(kv.tables):
            for position in [p for span in spans for p in span.positions()]:
                index, slot = divmod(position, PAGE_TOKENS)
                page = table.get(index)
                assert page is not None
                if table.writable[index]:
                    start = page * GRAIN_BYTES + 8 * slot
                    value = array("q", [content(kv.tokens, position, group)]).tobytes()
                    self.ledger.arena.memory[start : start + 8] = np.frombuffer(value, np.uint8)

    def sees_all(self, kv: SequenceKv, spans: SpanSet) -> None:
        """Everything that these rows look at is there, or was replaced by lists."""
        for group, (table, window) in enumerate(zip(kv.tables, WINDOWS, strict=True)):
            low = kv._replaced
            for position in [p for span in spans for p in span.positions()]:
                first = 0 if window is None else max(0, position - window + 1)
                for seen in range(max(first, low), position):
                    index, slot = divmod(seen, PAGE_TOKENS)
                    there = table.get(index) is not None and table.filled[index] >> slot & 1
                    assert there or seen in spans, f"{position} of group {group} looks for {seen} in vain"


class TightMachine(KvMachine):
    budget_bytes = 200_000


TestKv = KvMachine.TestCase
TestTight = TightMachine.TestCase
for case in (TestKv, TestTight):
    case.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)
