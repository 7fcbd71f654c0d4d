"""Lists by head that keep everything, and a table that continues them, give the bits of one dense table."""

from __future__ import annotations

import dataclasses
import itertools

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from attend_cases import NUM_LAYERS, int32, stored_tolerance
from in_torch import CpuAttend, ReferenceAttend
from kvloom.attend.builder import Rows
from kvloom.attend.lists import HeadLists
from kvloom.attend.plan import BySequence, Contiguous, Ints, Labelled, Masks, Plan, Seam
from kvloom.codec import CODECS, Stream
from kvloom.errors import InternalError
from kvloom.kernels import isas
from kvloom.memory.cells import cell, labels
from kvloom.memory.format import PAGE_TOKENS, PageFormat
from kvloom.memory.table import PageTable
from kvloom.segment import PageId, Span, SpanSet
from list_cases import KINDS, ListWorld, Shape, rows

LENGTH = 700
STOPS = (16, 48, 240, 250, 256, 262, 496, 509, 512, 605)
"""At a page's end and inside, in the first block, in the last and at their borders: where a block is longest, too."""

State = tuple[torch.Tensor, torch.Tensor]


def same(a: State, b: State) -> bool:
    return torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])


def moved(world: ListWorld, table: PageTable, stop: int, share: float = 1.0) -> tuple[HeadLists, PageTable]:
    """A share of what lies below ``stop``, as it is stored, in pages of single heads; and a table of the rest."""
    dense, memory = table.format, world.memory.numpy()
    fmt = PageFormat("per-head", (), 1, dense.k_dim, dense.v_dim, dense.codec, labelled=True)
    pages = [(index, page) for index, page in table.pages() if index * PAGE_TOKENS < stop]
    positions_S = np.concatenate([index * PAGE_TOKENS + np.arange(PAGE_TOKENS) for index, _ in pages])
    ids: list[int] = []
    masks: list[int] = []
    bounds = [0]
    for slot, head in itertools.product(range(NUM_LAYERS), range(dense.heads)):
        blocks = [cell(memory, dense, page, slot, head) for _, page in pages]
        keys_SE, values_SE = (
            np.concatenate(stream.entries(np.stack(of_pages), dim))
            for stream, dim, of_pages in zip(*streams(dense), zip(*blocks, strict=True), strict=True)
        )
        drawn_S = torch.rand(positions_S.size, generator=world.generator).numpy() < share
        kept = np.flatnonzero((positions_S < stop) & drawn_S)
        for at in range(0, kept.size, PAGE_TOKENS):
            piece = kept[at : at + PAGE_TOKENS]
            ids.append(world.pool.free.pop())
            masks.append((1 << piece.size) - 1)
            targets = cell(memory, fmt, ids[-1], 0, 0)
            for stream, dim, entries_SE, target in zip(*streams(fmt), (keys_SE, values_SE), targets, strict=True):
                block_SE = np.full((PAGE_TOKENS, entries_SE.shape[1]), 0xFF, np.uint8)  # what is unused may be anything
                block_SE[: piece.size] = entries_SE[piece]
                target[:] = stream.blocks(block_SE[None], dim)[0]
            places, bias = labels(memory, fmt, ids[-1])
            places[: piece.size], bias[: piece.size] = positions_S[piece], 0.0
        bounds.append(len(ids))
    lists = HeadLists(
        fmt, Labelled(), NUM_LAYERS, dense.heads, int32(ids), int32(bounds), np.array(masks, np.uint16), stop=stop
    )
    return lists, beyond(table, stop // PAGE_TOKENS)


def streams(fmt: PageFormat) -> tuple[tuple[Stream, Stream], tuple[int, int]]:
    return (fmt.numbers.keys, fmt.numbers.values), (fmt.k_dim, fmt.v_dim)


def beyond(table: PageTable, first: int) -> PageTable:
    """The pages of a table from number ``first`` on."""
    rest = PageTable(table.format, table.window)
    for index, page in table.pages():
        if index >= first:
            rest.put(index, PageId(page), filled=0xFFFF, writable=True)
    return rest


def cut_at(plan: Plan, stops: tuple[int, ...]) -> Plan:
    """Tables that hold nothing below the ``stops`` of their sequences."""
    (group,) = plan.groups
    parts = list(group.parts)
    for n, part in enumerate(parts):
        if isinstance(part.lists, BySequence) and isinstance(part.entries, Contiguous) and part.masks_P is None:
            at = np.repeat(np.array(stops), np.diff(part.lists.bounds_L1))
            parts[n] = dataclasses.replace(part, masks_P=_from(at - part.entries.starts_P))
    return dataclasses.replace(plan, groups=(dataclasses.replace(group, parts=tuple(parts)),))


def _from(below_P: Ints) -> Masks:
    return np.array([0xFFFF & ~((1 << max(0, below)) - 1) for below in below_P.tolist()], np.uint16)


def asked_after(stop: int) -> tuple[int, ...]:
    return tuple(sorted({stop, stop + 1, min(stop + 30, LENGTH - 1), *range(max(stop, 630), 640), LENGTH - 1}))


@pytest.mark.parametrize("window", [None, 300])
@pytest.mark.parametrize("codec", CODECS)
def test_lists_that_keep_everything_give_the_bits_of_a_table(codec: str, window: int | None) -> None:
    world = ListWorld(Shape(6, 2, codec=codec), window)
    whole = world.table(LENGTH)
    for stop in STOPS:
        asked = asked_after(stop)
        table = whole if window is None else beyond(whole, max(0, stop - window + 1) // PAGE_TOKENS)
        dense = world.plan([rows(asked, table)])
        lists, rest = moved(world, table, stop)
        plan = world.plan([rows(asked, rest, [lists])])
        if stop % PAGE_TOKENS:
            plan = cut_at(plan, (stop,))
        (group,) = plan.groups
        assert len(group.seams) == 1
        q_THD = world.queries(len(asked))
        for layer in range(NUM_LAYERS):
            wanted = CpuAttend(world.memory, 1).attend(q_THD, dense, layer)
            for threads in (1, 3):
                for isa in isas():
                    found = CpuAttend(world.memory, threads, isa).attend(q_THD, plan, layer)
                    assert same(found, wanted), (stop, layer, threads, isa)
        reference = ReferenceAttend(world.memory).attend(q_THD, plan, 1)
        near = stored_tolerance(codec)
        assert all(torch.allclose(x, y, rtol=near, atol=near) for x, y in zip(reference, wanted, strict=True))


@st.composite
def companies(draw: st.DrawFn) -> tuple[ListWorld, list[Rows], list[int]]:
    """Sequences with tables of two codecs, most of which continue lists, some of them the same; and their stops."""
    codec, window = draw(st.sampled_from(["int16", "float32", "int8"])), draw(st.sampled_from([None, None, 90]))
    world = ListWorld(Shape(codec=codec), window, draw(st.integers(0, 1000)))
    asked: list[Rows] = []
    stops: list[int] = []
    for _ in range(draw(st.integers(1, 3))):
        length = draw(st.integers(20, 600))
        stop, share = draw(st.integers(1, length - 1)), draw(st.sampled_from([0.0, 0.4, 1.0, 1.0]))
        table = world.table(length, draw(st.sampled_from([None, None, None, "float16"])))
        at = sorted(draw(st.sets(st.integers(stop, length - 1), min_size=1, max_size=4)))
        more = [world.lists(kind, length, most=9) for kind in draw(st.lists(st.sampled_from(KINDS), max_size=1))]
        if draw(st.sampled_from(["lists", "lists", "table"])) == "table":
            asked.append(rows(at, table, more))
            stops.append(0)
            continue
        lists, rest = moved(world, table, stop, share)
        asked.append(rows(at, rest, [lists, *more]))
        stops.append(stop)
        if draw(st.booleans()):
            asked.append(rows([length - 1], rest, [lists, *more]))
            stops.append(stop)
    return world, asked, stops


@settings(max_examples=40, deadline=None)
@given(company=companies(), threads=st.sampled_from([1, 2, 3]))
def test_company_does_not_show(company: tuple[ListWorld, list[Rows], list[int]], threads: int) -> None:
    world, asked, stops = company
    cpu, plan = CpuAttend(world.memory, threads), cut_at(world.plan(asked), tuple(stops))
    q_THD = world.queries(plan.num_rows)
    found = cpu.attend(q_THD, plan, 1)
    reference = ReferenceAttend(world.memory).attend(q_THD, plan, 1)
    assert all(torch.allclose(x, y, rtol=5e-4, atol=5e-4) for x, y in zip(reference, found, strict=True))
    row = 0
    for sequence, stop in zip(asked, stops, strict=True):
        for span in sequence.spans:
            for position in span.positions():
                alone = dataclasses.replace(sequence, spans=SpanSet((Span(position, position + 1),)))
                mine = slice(row, row + 1)
                wanted = cpu.attend(q_THD[mine], cut_at(world.plan([alone]), (stop,)), 1)
                assert same((found[0][mine], found[1][mine]), wanted), (position, stop)
                row += 1


def test_what_continues_lists_is_checked() -> None:
    world = ListWorld(Shape())
    lists, rest = moved(world, world.table(100), 48)
    plan, q_THD = world.plan([rows([99], rest, [lists])]), world.queries(1)
    (group,) = plan.groups
    (seam,) = group.seams
    for wrong, message in (
        (Seam(seam.table, seam.lists, seam.stops_B), "labelled lists by head"),
        (Seam(seam.lists, seam.lists, seam.stops_B), "by a table"),
        (Seam(seam.lists, seam.table, int32([-1])), "negative"),
        (Seam(seam.lists, seam.table, int32([1, 2])), "one stop per sequence"),
        (Seam(seam.lists, 7, seam.stops_B), "no such part"),
    ):
        broken = dataclasses.replace(plan, groups=(dataclasses.replace(group, seams=(wrong,)),))
        with pytest.raises(InternalError, match=message):
            CpuAttend(world.memory, 1).attend(q_THD, broken, 0)
    twice = dataclasses.replace(plan, groups=(dataclasses.replace(group, seams=(seam, seam)),))
    with pytest.raises(InternalError, match="once"):
        CpuAttend(world.memory, 1).attend(q_THD, twice, 0)
