"""What a sequence's KV publishes when it ends, and how far back it can be truncated."""

from __future__ import annotations

import numpy as np
import pytest

from kvloom.attend.lists import HeadLists
from kvloom.attend.plan import Labelled
from kvloom.engine.kv import PageNames, SequenceKv
from kvloom.errors import InternalError
from kvloom.memory.arena import Arena
from kvloom.memory.format import PAGE_TOKENS, PageFormat
from kvloom.memory.index import Index
from kvloom.memory.keys import root_key
from kvloom.memory.ledger import Ledger
from kvloom.memory.table import PageTable
from kvloom.policy.retention.lru import LeastRecentlyUsed
from kvloom.segment import Span, SpanSet

FULL = PageFormat("full", (0,), 1, 16, 16, "float32")
HEAD = PageFormat("per-head", (), 1, 16, 16, "float32", labelled=True)
TAIL = 8


def sequence(length: int) -> SequenceKv:
    """A sequence of one layer group, whose pages are reserved and not written."""
    ledger = Ledger(Arena(900_000, 32_768), Index(1), LeastRecentlyUsed())
    names = PageNames(root_key(weights="w", formats="f"), list(range(length)))
    kv = SequenceKv(ledger, "a", names, (PageTable(FULL, None),))
    kv.start(SpanSet.full(length))
    assert kv.reserve(kv.missing)
    return kv


def found(kv: SequenceKv) -> list[tuple[int, int]]:
    """(position, number of tokens) of everything that others can find."""
    return sorted((entry.position, len(entry.tokens)) for entry in kv.ledger.index.entries.values())


@pytest.mark.parametrize(
    "pending", [Span(0, PAGE_TOKENS), Span(PAGE_TOKENS, 2 * PAGE_TOKENS), Span(36, 38), None], ids=str
)
def test_the_tail_is_published_only_when_nothing_before_it_is_pending(pending: Span | None) -> None:
    length = 2 * PAGE_TOKENS + TAIL
    kv = sequence(length)
    if pending is not None:
        kv.expect(SpanSet((pending,)))
    kv.written(kv.missing)
    kv.publish(length)
    kv.release()
    tails = [place for place in found(kv) if place[1] < PAGE_TOKENS]
    assert tails == ([] if pending else [(2 * PAGE_TOKENS, TAIL)])
    kv.ledger.check([])


def test_a_tail_that_ends_before_pending_positions_is_published() -> None:
    kv = sequence(2 * PAGE_TOKENS + TAIL)
    kv.expect(SpanSet((Span(PAGE_TOKENS + 3, 2 * PAGE_TOKENS + TAIL - 1),)))
    kv.written(kv.ready(1000))
    kv.publish(len(kv.tokens))
    kv.release()
    assert found(kv) == [(0, PAGE_TOKENS), (PAGE_TOKENS, 3)]


def test_truncating_below_replaced_lists_raises() -> None:
    kv = sequence(4 * PAGE_TOKENS)
    kv.written(kv.missing)
    kv.publish(len(kv.tokens))
    extent = kv.take(HEAD, 1)
    assert extent is not None
    lists = HeadLists(HEAD, Labelled(), 1, 1, np.array(extent.pages, np.int32), np.array([0, 1], np.int32))
    kv.replace(0, 2 * PAGE_TOKENS, [lists], [extent])
    before = list(kv.tokens)
    with pytest.raises(InternalError, match=f"{len(before)} tokens and cannot be truncated to {2 * PAGE_TOKENS - 1}"):
        kv.truncate(2 * PAGE_TOKENS - 1)
    assert kv.tokens == before
    kv.truncate(2 * PAGE_TOKENS)
    assert kv.tokens == before[: 2 * PAGE_TOKENS]
