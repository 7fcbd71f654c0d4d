"""Sequences whose first pages are the same: the answers are those of each one alone, and shared pages are read once."""

from __future__ import annotations

import dataclasses
import itertools

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from attend_cases import Case, World, head_pool, int32, joined, kept_part, stored_tolerance
from in_torch import CpuAttend, ReferenceAttend
from kvloom.attend.plan import ByHead, Plan
from kvloom.codec import CODECS
from kvloom.kernels import isas

BLOCK_PAGES = 16  # kv_block_pages of work.h


def share(world: World, parents: list[int], pages: list[int]) -> None:
    """Sequence b takes its first ``pages[b]`` pages from sequence ``parents[b]``, which comes before it."""
    for b, (parent, count) in enumerate(zip(parents, pages, strict=True)):
        for page in range(count):
            world.tables[b][page] = world.tables[parent][page]


def filled(case: Case, parents: list[int], pages: list[int]) -> World:
    """A world whose sequences share pages; whatever several of them wrote there, they all read the last."""
    world = World.of(case)
    share(world, parents, pages)
    cpu = CpuAttend(world.pool.memory, threads=1)
    world.store(cpu, [tuple(range(length)) for length in case.lengths])
    return world


def ask(world: World, cpu: CpuAttend, only: int | None = None) -> tuple[torch.Tensor, torch.Tensor, Plan]:
    """Attend the case's rows, of all sequences or of one alone."""
    rows = [asked if only in (None, b) else () for b, asked in enumerate(world.case.rows)]
    plan = world.plan(rows, write=False)
    return *cpu.attend(world.gather(world.q, rows), plan, 1), plan


def assert_alone_equals_together(world: World, cpu: CpuAttend) -> None:
    out_THD, lse_TH, _ = ask(world, cpu)
    first = 0
    for b, asked in enumerate(world.case.rows):
        out_alone, lse_alone, _ = ask(world, cpu, b)
        last = first + len(asked)
        assert torch.equal(out_THD[first:last], out_alone)
        assert torch.equal(lse_TH[first:last], lse_alone)
        first = last


@st.composite
def families(draw: st.DrawFn) -> tuple[Case, list[int], list[int]]:
    """Sequences that branch off earlier ones, at any page."""
    lengths, rows, parents, pages = [], [], [], []
    for b in range(draw(st.integers(2, 5))):
        parent = draw(st.integers(0, max(0, b - 1)))
        length = draw(st.integers(1, 900))
        parents.append(parent)
        common = min(length, lengths[parent]) // 16 if b else 0
        pages.append(draw(st.sampled_from([common, common, draw(st.integers(0, common))])))
        lengths.append(length)
        rows.append(tuple(range(max(0, length - draw(st.sampled_from([1, 2, 30, 64, 65]))), length)))
    group, kv_heads = draw(st.sampled_from([(3, 3), (1, 2), (4, 1)]))
    window = draw(st.sampled_from([None, None, 300]))
    codec = draw(st.sampled_from(list(CODECS)))
    shape = {"heads": group * kv_heads, "kv_heads": kv_heads, "k_dim": 32, "v_dim": 48}
    seed = draw(st.integers(0, 1000))
    case = Case(lengths=tuple(lengths), rows=tuple(rows), **shape, codec=codec, window=window, seed=seed)
    return case, parents, pages


@settings(max_examples=12, deadline=None)
@given(family=families(), threads=st.sampled_from([1, 2, 3]))
def test_sharing_does_not_show(family: tuple[Case, list[int], list[int]], threads: int) -> None:
    world = filled(*family)
    cpu = CpuAttend(world.pool.memory, threads)
    assert_alone_equals_together(world, cpu)
    rows = world.case.rows
    out_THD, lse_TH, plan = ask(world, cpu)
    wanted_THD, wanted_TH = ReferenceAttend(world.pool.memory).attend(world.gather(world.q, rows), plan, 1)
    assert torch.allclose(out_THD, wanted_THD, rtol=0, atol=stored_tolerance(world.case.codec))
    assert torch.allclose(lse_TH, wanted_TH, rtol=0, atol=1e-5)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("rows", [1, 7, 64])
def test_every_instruction_set_shares_alike(rows: int, codec: str) -> None:
    lengths = (600, 640, 610, 700)
    asked = tuple(tuple(range(length - rows, length)) for length in lengths)
    case = Case(lengths=lengths, rows=asked, heads=6, kv_heads=2, codec=codec)
    world = filled(case, [0, 0, 0, 1], [0, 32, 20, 36])
    wanted = ask(world, CpuAttend(world.pool.memory, threads=1))
    for isa in isas():
        cpu = CpuAttend(world.pool.memory, threads=2, isa=isa)
        assert_alone_equals_together(world, cpu)
        found = ask(world, cpu)
        assert torch.equal(found[0], wanted[0])
        assert torch.equal(found[1], wanted[1])


@pytest.mark.parametrize("threads", [1, 2])
def test_a_shared_prefix_is_read_once(threads: int) -> None:
    lengths = tuple(2 * BLOCK_PAGES * 16 + 40 + b for b in range(8))
    rows = tuple((length - 1,) for length in lengths)
    world = filled(Case(lengths=lengths, rows=rows, heads=9, kv_heads=3, codec="float16"), [0] * 8, [0, *[32] * 7])
    cpu = CpuAttend(world.pool.memory, threads)
    page_bytes = world.format.page_bytes // len(world.format.layers)
    together = cpu.kv_bytes(ask(world, cpu)[2], 1, 9)
    assert together == (2 * BLOCK_PAGES + 8 * 3) * page_bytes  # 40 to 47 positions more: 3 pages each
    assert [cpu.kv_bytes(ask(world, cpu, b)[2], 1, 9) for b in range(8)] == [(2 * BLOCK_PAGES + 3) * page_bytes] * 8


def test_short_prefills_on_a_prefix_share_it_too() -> None:
    rows = tuple(tuple(range(512, 512 + 20)) for _ in range(8))
    world = filled(Case(lengths=(532,) * 8, rows=rows, heads=6, kv_heads=2), [0] * 8, [0, *[32] * 7])
    cpu = CpuAttend(world.pool.memory, threads=2)
    together = cpu.kv_bytes(ask(world, cpu)[2], 1, 6)
    alone = sum(cpu.kv_bytes(ask(world, cpu, b)[2], 1, 6) for b in range(8))
    assert together < alone / 1.5  # two sequences' rows to a tile


@pytest.mark.parametrize("keep", [1.0, 0.3])
def test_lists_by_head_that_are_the_same_are_shared(keep: float) -> None:
    """One work plan serves all layers and heads when nothing is dropped; with random lengths each layer has its own."""
    case = Case(lengths=(400, 400), rows=((399,), (399,)), heads=4, kv_heads=2)
    world, pool = World.of(case), head_pool(case)
    part, _, _ = kept_part(world, keep, pool)
    assert isinstance(part.lists, ByHead)
    first, each = part.lists.bounds_L1.tolist(), 2 * case.kv_heads
    even = len({b - a for a, b in itertools.pairwise(first[: each + 1])}) == 1
    assert even == (keep == 1.0)
    until = first[each]  # sequence 1 reads what sequence 0 reads
    assert part.masks_P is not None
    twins = dataclasses.replace(
        part,
        lists=ByHead(int32([*first[:each], *(until + n for n in first[: each + 1])]), 2, 2),
        page_ids_P=np.tile(part.page_ids_P[:until], 2),
        masks_P=np.tile(part.masks_P[:until], 2),
    )
    plan = joined(world.plan(case.rows), (twins,))
    cpu = CpuAttend(pool.memory, threads=2)
    q_THD = world.gather(world.q, case.rows)
    q_THD[1] = q_THD[0]
    for layer in range(2):
        out_THD, lse_TH = cpu.attend(q_THD, plan, layer)
        assert torch.equal(out_THD[0], out_THD[1])
        assert torch.equal(lse_TH[0], lse_TH[1])
        assert bool(lse_TH.isfinite().all())
        pages = first[2 * layer + 2] - first[2 * layer]
        assert cpu.kv_bytes(plan, layer, 4) == pages * (part.format.k_bytes + part.format.v_bytes)
    assert len(cpu.bind(plan).work_plans) == (1 if even else 2)
    hidden = dataclasses.replace(twins, masks_P=twins.masks_P & 0x7FFF)
    apart = np.concatenate([hidden.masks_P[:until], twins.masks_P[:until]])
    for masks_P, times in ((hidden.masks_P, 1), (apart, 2)):
        plan = joined(world.plan(case.rows), (dataclasses.replace(twins, masks_P=masks_P),))
        pages = first[2]
        assert cpu.kv_bytes(plan, 0, 4) == times * pages * (part.format.k_bytes + part.format.v_bytes)
