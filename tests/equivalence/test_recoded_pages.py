"""Pages of several formats in one table: an exact recent window after older pages that were recoded."""

from __future__ import annotations

import dataclasses

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from attend_cases import stored_tolerance
from in_torch import CpuAttend, ReferenceAttend
from kvloom.arrays import Floats
from kvloom.attend.builder import Rows, build_plan
from kvloom.attend.plan import LayerPlan, Plan
from kvloom.codec import CODECS
from kvloom.kernels import isas
from kvloom.memory.arena import Arena
from kvloom.memory.cells import decoded
from kvloom.memory.format import PAGE_TOKENS, PageFormat
from kvloom.memory.index import Index
from kvloom.memory.ledger import Ledger
from kvloom.memory.table import FULL_MASK, PageTable
from kvloom.policy.actions import Recode
from kvloom.policy.retention.lru import LeastRecentlyUsed
from kvloom.segment import Span, SpanSet

HEADS, FORMAT = 6, PageFormat("full", (0, 1), 2, 64, 48, "int16")
LAYERS = tuple(LayerPlan(0, slot, True, 0.125) for slot in range(2))


class Context:
    """One sequence over a ledger: ``length`` positions of random KV, all but the last page sealed."""

    def __init__(self, length: int, codec: str = "int16", window: int | None = None, seed: int = 0) -> None:
        self.ledger = Ledger(Arena(2**22, 2**17), Index(1), LeastRecentlyUsed())
        self.memory = torch.from_numpy(self.ledger.arena.memory)
        self.memory.fill_(0xFF)
        self.table, self.length = PageTable(FORMAT.recoded(codec), window), length
        for index in range(-(-length // PAGE_TOKENS)):
            page = self.ledger.allocate(self.table.format, "a")
            assert page is not None
            self.table.put(index, page, filled=0, writable=True)
        generator = torch.Generator().manual_seed(seed)
        self.q_THD = torch.randn(length, HEADS, FORMAT.k_dim, generator=generator)
        k_TKD = torch.randn(length, FORMAT.heads, FORMAT.k_dim, generator=generator)
        v_TKD = torch.randn(length, FORMAT.heads, FORMAT.v_dim, generator=generator)
        for layer in range(2):
            CpuAttend(self.memory, threads=1).write(k_TKD, v_TKD, self.plan(range(length)), layer)
        for index in range(length // PAGE_TOKENS):
            self.table.filled[index], self.table.writable[index] = FULL_MASK, False

    def recode(self, codec: str, pages: range) -> None:
        for index in pages:
            page = self.table.get(index)
            assert page is not None
            assert self.ledger.recode(Recode(page, codec, ("a",)), {"a": self.table}) is not None
        self.ledger.check([(page, "a") for _, page in self.table.pages()])

    def rows(self, positions: range) -> Rows:
        return Rows(SpanSet((Span(positions.start, positions.stop),)), (self.table,))

    def plan(self, positions: range) -> Plan:
        return build_plan([self.rows(positions)], LAYERS)

    def attend(self, positions: range, threads: int = 1, isa: str | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        q_THD = self.q_THD[positions.start : positions.stop]
        return CpuAttend(self.memory, threads, isa).attend(q_THD, self.plan(positions), 1)

    def stored(self, head: int) -> tuple[Floats, Floats]:
        """What all entries of one head mean, each page in its own format."""
        pages = [
            decoded(self.ledger.arena.memory, self.table.format_of(index), page, 1, head)
            for index, page in self.table.pages()
        ]
        return tuple(np.concatenate([page[n] for page in pages])[: self.length] for n in (0, 1))


def same(a: tuple[torch.Tensor, torch.Tensor], b: tuple[torch.Tensor, torch.Tensor]) -> bool:
    return torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])


@pytest.mark.parametrize("window", [None, 200])
@pytest.mark.parametrize("codec", [name for name in CODECS if name != "int16"])
def test_an_exact_recent_window_reads_every_page_as_it_is_stored(codec: str, window: int | None) -> None:
    context = Context(700, window=window)
    exact, last = context.attend(range(600, 700)), context.length // PAGE_TOKENS
    before = context.ledger.held_bytes
    context.recode(codec, range(last - 8))
    plan = context.plan(range(600, 700))
    assert {part.format.codec for part in plan.groups[0].parts} == {"int16", codec}
    assert len(plan.groups[0].parts) == 2
    assert context.ledger.held_bytes == context.table.held_bytes()
    assert (context.ledger.held_bytes < before) == (codec in ("int8", "float16", "bfloat16"))
    q_THD = context.q_THD[600:]
    found, wanted = context.attend(range(600, 700), 2), ReferenceAttend(context.memory).attend(q_THD, plan, 1)
    off = stored_tolerance(codec)
    assert all(torch.allclose(a, b, rtol=0, atol=off) for a, b in zip(found, wanted, strict=True))
    near = {"float32": 2e-3, "float16": 2e-3, "bfloat16": 3e-2, "int8": 3e-2}[codec]
    assert all(torch.allclose(a, b, rtol=0, atol=near) for a, b in zip(found, exact, strict=True))


def test_decoding_after_recoded_pages_stays_within_their_bounds() -> None:
    """Scores are off by |q| times what keys may be off, weights by e to that, outputs by weights and values."""
    context = Context(400)
    exact = {head: context.stored(head) for head in range(2)}
    then, last = context.attend(range(399, 400))[0][0].double(), context.length // PAGE_TOKENS
    context.recode("int8", range(last - 4))
    now = context.attend(range(399, 400))[0][0].double()
    numbers = CODECS["int8"]
    for head in range(HEADS):
        k_SD, v_SD = exact[head // 3]
        off_k_SD, off_v_SD = numbers.keys.bound(k_SD), numbers.values.bound(v_SD)
        off_score = 0.125 * (np.abs(context.q_THD[399, head].numpy()) * off_k_SD).sum(axis=1).max() + 1e-5
        most = np.expm1(2 * off_score) * np.abs(v_SD).max() + off_v_SD.max() + 1e-5
        assert float((now[head] - then[head]).abs().max()) <= most
        k_now_SD, v_now_SD = context.stored(head // 3)
        assert (np.abs(k_now_SD - k_SD) <= off_k_SD).all()
        assert (np.abs(v_now_SD - v_SD) <= off_v_SD).all()


@pytest.mark.parametrize("codec", ["int8", "bfloat16"])
def test_bits_do_not_tell_threads_instruction_sets_or_company(codec: str) -> None:
    context, alone = Context(700), []
    context.recode(codec, range(5, 30))
    wanted = context.attend(range(650, 700))
    for isa in isas():
        for threads in (1, 2):
            assert same(context.attend(range(650, 700), threads, isa), wanted)
    for position in (650, 671, 699):
        alone.append(context.attend(range(position, position + 1)))
        at = position - 650
        assert same(alone[-1], (wanted[0][at : at + 1], wanted[1][at : at + 1]))


def test_a_row_does_not_notice_that_others_pages_are_recoded() -> None:
    mine = Context(300)
    wanted = mine.attend(range(299, 300))
    theirs = PageTable(FORMAT, None)
    for index, page in mine.table.pages():
        mine.ledger.hold(page, "b")
        theirs.put(index, page, filled=mine.table.filled[index], writable=False)
    for index in range(18):
        page = theirs.get(index)
        assert page is not None
        assert mine.ledger.recode(Recode(page, "int8", ("b",)), {"b": theirs}) is not None
    rows = [mine.rows(range(299, 300)), dataclasses.replace(mine.rows(range(299, 300)), tables=(theirs,))]
    plan = build_plan(rows, LAYERS)
    assert len(plan.groups[0].parts) == 2
    q_THD = mine.q_THD[[299, 299]]
    out, lse = CpuAttend(mine.memory, threads=2).attend(q_THD, plan, 1)
    assert same((out[:1], lse[:1]), wanted)
    assert not torch.equal(out[:1], out[1:])


@settings(max_examples=15, deadline=None)
@given(data=st.data(), window=st.none() | st.integers(1, 300), seed=st.integers(0, 2**31))
def test_any_formats_in_any_pages_equal_the_reference(data: st.DataObject, window: int | None, seed: int) -> None:
    length = data.draw(st.integers(20, 500))
    context = Context(length, window=window, seed=seed)
    for index in range(length // PAGE_TOKENS):
        codec = data.draw(st.sampled_from(list(CODECS)))
        if codec != "int16":
            context.recode(codec, range(index, index + 1))
    positions = range(data.draw(st.integers(0, length - 1)), length)
    plan, q_THD = context.plan(positions), context.q_THD[positions.start :]
    codecs = [part.format.codec for part in plan.groups[0].parts]
    assert codecs == sorted(codecs), "the order is that of the formats"
    found, wanted = context.attend(positions, 2), ReferenceAttend(context.memory).attend(q_THD, plan, 1)
    off = max(map(stored_tolerance, codecs))
    assert all(torch.allclose(a, b, rtol=0, atol=off) for a, b in zip(found, wanted, strict=True))


def test_new_rows_are_written_in_the_format_of_their_page() -> None:
    """A recoded page whose end was taken back is written to again: in its codec, and never found by others."""
    context = Context(64)
    context.recode("int8", range(4))
    for index in (2, 3):
        context.table.writable[index] = True
    k_TKD, v_TKD = torch.randn(20, 2, FORMAT.k_dim), torch.randn(20, 2, FORMAT.v_dim)
    twin = context.memory.clone()
    plan = context.plan(range(44, 64))
    CpuAttend(context.memory, threads=1).write(k_TKD, v_TKD, plan, 1)
    ReferenceAttend(twin).write(k_TKD, v_TKD, plan, 1)
    assert torch.equal(context.memory, twin)
    k_SD, _ = context.stored(0)
    assert (np.abs(k_SD[44:] - k_TKD[:, 0].numpy()) <= CODECS["int8"].keys.bound(k_TKD[:, 0].numpy())).all()
