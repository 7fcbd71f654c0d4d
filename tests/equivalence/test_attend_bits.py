"""A row's bits depend on its own query, position and visible entries, and on nothing else."""

from __future__ import annotations

import dataclasses
import itertools

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from attend_cases import Case, World, head_pool, joined, kept_part
from in_torch import CpuAttend
from kvloom.codec import CODECS
from kvloom.kernels import isas

State = tuple[torch.Tensor, torch.Tensor]
BATCH = Case(
    lengths=(1100, 40, 531, 1),
    rows=((*range(30, 37), *range(470, 560), 1099), (39,), (*range(500, 516), 530), (0,)),
    heads=6,
    kv_heads=2,
    k_dim=80,
    v_dim=64,
)


def same(a: State, b: State) -> bool:
    return torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])


def row(state: State, index: int) -> State:
    return state[0][index : index + 1], state[1][index : index + 1]


def batch(codec: str, window: int | None, threads: int = 2, isa: str | None = None) -> tuple[World, CpuAttend, State]:
    world = World.of(dataclasses.replace(BATCH, codec=codec, window=window))
    cpu = CpuAttend(world.pool.memory, threads, isa)
    world.fill_cached(cpu)
    return world, cpu, world.step(cpu)


@pytest.mark.parametrize("window", [None, 90])
@pytest.mark.parametrize("codec", CODECS)
def test_threads_and_instruction_sets_do_not_show(codec: str, window: int | None) -> None:
    _, _, wanted = batch(codec, window)
    for isa in isas():
        for threads in (1, 2, 3):
            assert same(batch(codec, window, threads, isa)[2], wanted), (isa, threads)


@pytest.mark.parametrize("window", [None, 90])
@pytest.mark.parametrize("codec", CODECS)
def test_a_row_alone_equals_the_row_in_a_batch(codec: str, window: int | None) -> None:
    world, cpu, wanted = batch(codec, window)
    index = 0
    for b, positions in enumerate(world.case.rows):
        for place, position in enumerate(positions):
            if place % 9 == 0 or place == len(positions) - 1:
                rows = [tuple([position] * (other == b)) for other in range(len(world.case.rows))]
                plan = world.plan(rows, write=False)
                alone = cpu.attend(world.gather(world.q, rows), plan, 1)
                assert same(alone, row(wanted, index + place)), (b, position)
        index += len(positions)


@settings(max_examples=12, deadline=None)
@given(
    cuts=st.sets(st.integers(1, 599), max_size=12),
    codec=st.sampled_from(list(CODECS)),
    window=st.none() | st.integers(1, 200),
    seed=st.integers(0, 1000),
)
def test_chunking_does_not_show(cuts: set[int], codec: str, window: int | None, seed: int) -> None:
    case = Case(lengths=(600,), rows=(tuple(range(600)),), heads=3, kv_heads=1, codec=codec, window=window, seed=seed)
    whole, pieces = World.of(case), World.of(case)
    wanted = whole.step(CpuAttend(whole.pool.memory, threads=2))
    cpu = CpuAttend(pieces.pool.memory, threads=1)
    edges = [0, *sorted(cuts), 600]
    steps = [pieces.step(cpu, [tuple(range(*edge))]) for edge in itertools.pairwise(edges)]
    assert same((torch.cat([out for out, _ in steps]), torch.cat([lse for _, lse in steps])), wanted)


@pytest.mark.parametrize("codec", CODECS)
def test_pages_behind_the_window_may_be_given_back(codec: str) -> None:
    for position in (115, 511, 512, 600, 655, 1099):
        case = Case(lengths=(1100,), rows=((position,),), codec=codec, window=100, heads=8, kv_heads=1)
        world = World.of(case)
        cpu = CpuAttend(world.pool.memory, threads=2)
        world.store(cpu, [tuple(range(1100))])
        wanted = world.step(cpu)
        gone = {page for page in world.tables[0] if page * 16 + 15 <= position - 100}
        assert gone
        assert same(world.step(cpu, absent=[gone]), wanted)


@pytest.mark.parametrize("codec", CODECS)
def test_what_a_row_does_not_see_may_hold_anything(codec: str) -> None:
    """Later entries of the page and of the batch are NaN or infinite; earlier rows do not notice."""
    case = Case(lengths=(200,), rows=((*range(100, 150),),), codec=codec, window=64)
    clean, dirty = World.of(case), World.of(case)
    wanted = clean.step(_filled(clean))
    cpu = _filled(dirty)
    for spoiled in (torch.nan, torch.inf, -torch.inf):
        for store in (dirty.k, dirty.v):
            store[0][130:] = spoiled
            store[0][:20] = spoiled
        dirty.fill_cached(cpu)
        out, lse = dirty.step(cpu)
        assert same((out[:30], lse[:30]), (wanted[0][:30], wanted[1][:30]))
        assert not bool(out[30:].isfinite().any())


def _filled(world: World) -> CpuAttend:
    cpu = CpuAttend(world.pool.memory, threads=2)
    world.fill_cached(cpu)
    return cpu


@pytest.mark.parametrize("codec", CODECS)
def test_merged_parts_keep_the_bits_too(codec: str) -> None:
    rows = ((*range(700, 760), 899), (20, 299))
    case = Case(lengths=(900, 300), rows=rows, heads=6, kv_heads=2, codec=codec)
    world = World.of(case)
    pool = head_pool(case)
    world.pool, world.tables = pool, [{n: pool.free.pop() for n in table} for table in world.tables]
    world.fill_cached(CpuAttend(pool.memory, threads=2))
    world.store(CpuAttend(pool.memory, threads=2), case.rows)
    part, _, _ = kept_part(world, 0.7, pool)
    results = []
    for isa in isas():
        for threads in (1, 2):
            cpu = CpuAttend(pool.memory, threads, isa)
            plan = world.plan(case.rows)
            q_THD = world.gather(world.q, case.rows)
            results.append(cpu.attend(q_THD, joined(plan, (part, *plan.groups[0].parts)), 1))
    assert all(same(result, results[0]) for result in results)
    for index, asked in ((7, ((707,), ())), (60, ((899,), ())), (61, ((), (20,)))):
        plan = world.plan(asked)
        alone = cpu.attend(world.gather(world.q, asked), joined(plan, (part, *plan.groups[0].parts)), 1)
        assert same(alone, row(results[0], index))
