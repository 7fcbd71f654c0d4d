"""Lists by head that keep everything, and a table that continues them, give the bits of one dense table."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from attend_cases import NUM_LAYERS, int32
from in_torch import CpuAttend, ReferenceAttend
from kvloom.attend.lists import HeadLists
from kvloom.attend.plan import Contiguous, Ints, Labelled, Masks, Plan
from kvloom.codec import CODECS
from kvloom.kernels import isas
from kvloom.memory.cells import cell, labels
from kvloom.memory.format import PAGE_TOKENS, PageFormat
from kvloom.memory.table import PageTable
from kvloom.segment import PageId
from list_cases import ListWorld, Shape, rows

LENGTH = 700
STOPS = (16, 48, 240, 250, 256, 262, 496, 509, 512, 605)
"""At a page's end and inside, in the first block, in the last and at their borders: where a block is longest, too."""

State = tuple[torch.Tensor, torch.Tensor]


def same(a: State, b: State) -> bool:
    return torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])


def moved(world: ListWorld, table: PageTable, stop: int) -> tuple[HeadLists, PageTable]:
    """What lies below ``stop``, as it is stored, in pages of single heads; and a table of the rest."""
    dense, memory = table.format, world.memory.numpy()
    fmt = PageFormat("per-head", (), 1, dense.k_dim, dense.v_dim, dense.codec, labelled=True)
    first = next(index for index, _ in table.pages())
    pages = [(index, page) for index, page in table.pages() if index * PAGE_TOKENS < stop]
    ids: list[int] = []
    masks: list[int] = []
    for slot, head in itertools.product(range(NUM_LAYERS), range(dense.heads)):
        for index, page in pages:
            count = min(PAGE_TOKENS, stop - index * PAGE_TOKENS)
            ids.append(world.pool.free.pop())
            masks.append((1 << count) - 1)
            for stream, dim, source, target in zip(
                (dense.numbers.keys, dense.numbers.values),
                (dense.k_dim, dense.v_dim),
                cell(memory, dense, page, slot, head),
                cell(memory, fmt, ids[-1], 0, 0),
                strict=True,
            ):
                stream.put_entries(stream.entries(source[None], dim)[0, :count], target, dim, range(count))
            positions, bias = labels(memory, fmt, ids[-1])
            positions[:count], bias[:count] = index * PAGE_TOKENS + np.arange(count), 0.0
    bounds = np.arange(NUM_LAYERS * dense.heads + 1, dtype=np.int32) * np.int32(len(pages))
    rest = PageTable(dense, table.window)
    for index, page in table.pages():
        if index >= max(first, stop // PAGE_TOKENS):
            rest.put(index, PageId(page), filled=0xFFFF, writable=True)
    masks_P = np.array(masks, np.uint16)
    return HeadLists(fmt, Labelled(), NUM_LAYERS, dense.heads, int32(ids), bounds, masks_P, stop=stop), rest


def cut_at(plan: Plan, stops: tuple[int, ...]) -> Plan:
    """Tables that hold nothing below the ``stops`` of their sequences."""
    (group,) = plan.groups
    parts = list(group.parts)
    for n, part in enumerate(parts):
        if isinstance(part.entries, Contiguous):
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
    table = world.table(LENGTH)
    for stop in STOPS:
        asked = asked_after(stop)
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
        assert all(torch.allclose(x, y, rtol=1e-5, atol=1e-5) for x, y in zip(reference, wanted, strict=True))
