"""Merging: any partition, order and nesting of the same entries gives dense softmax attention."""

from __future__ import annotations

import dataclasses

import hypothesis.strategies as st
import torch
from hypothesis import given, settings

from attend_cases import Case, World, joined, softmax_oracle
from in_torch import CpuAttend, ReferenceAttend
from kvloom.attend.merge import State, merge
from kvloom.attend.plan import Plan

ENTRIES, ROWS, HEADS, DIM = 40, 3, 2, 16


def close(a: State, b: State) -> bool:
    pairs = zip(a, b, strict=True)
    return all(torch.allclose(x.double(), y.double(), rtol=1e-5, atol=1e-5) for x, y in pairs)


def partials(piece_of_entry: list[int], spread: float, seed: int) -> tuple[list[State], State]:
    """Attention over each piece (some may be empty), float32, and over all entries, float64."""
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(n, HEADS, DIM, generator=generator) for n in (ROWS, ENTRIES, ENTRIES))
    pieces = []
    for piece in range(max(piece_of_entry) + 2):
        mask = (torch.tensor(piece_of_entry) == piece).expand(ROWS, -1)
        out, lse = softmax_oracle(q * spread, k, v, mask, 1.0)
        pieces.append((out.float(), lse.float()))
    everything = torch.ones(ROWS, ENTRIES, dtype=torch.bool)
    return pieces, softmax_oracle(q * spread, k, v, everything, 1.0)


@settings(max_examples=30, deadline=None)
@given(
    piece_of_entry=st.lists(st.integers(0, 6), min_size=ENTRIES, max_size=ENTRIES),
    spread=st.sampled_from([0.1, 1.0, 30.0]),
    data=st.data(),
)
def test_any_partition_and_order(piece_of_entry: list[int], spread: float, data: st.DataObject) -> None:
    pieces, wanted = partials(piece_of_entry, spread, data.draw(st.integers(0, 1000)))
    while len(pieces) > 1:  # merge any two, until one is left
        a = pieces.pop(data.draw(st.integers(0, len(pieces) - 1)))
        b = pieces.pop(data.draw(st.integers(0, len(pieces) - 1)))
        pieces.append(merge(a, b))
    assert close(pieces[0], wanted)


def test_merge_is_commutative_to_the_bit_and_has_an_identity() -> None:
    (a, b, nothing), _ = partials([entry % 2 for entry in range(ENTRIES)], 1.0, seed=0)
    assert all(torch.equal(x, y) for x, y in zip(merge(a, b), merge(b, a), strict=True))
    assert close(merge(a, nothing), a)
    assert close(merge(nothing, a), a)
    out, lse = merge(nothing, nothing)
    assert bool((out == 0).all())
    assert bool(lse.isneginf().all())


@settings(max_examples=8, deadline=None)
@given(owner_of_page=st.lists(st.integers(0, 3), min_size=40, max_size=40), order=st.permutations(range(4)))
def test_parts_of_a_plan_are_merged(owner_of_page: list[int], order: list[int]) -> None:
    """The same pages, dealt out to several parts: some may be empty, a row may see nothing of the first."""
    case = Case(lengths=(630,), rows=((7, *range(300, 310), 629),), codec="bfloat16")
    world = World.of(case)
    cpu = CpuAttend(world.pool.memory, threads=2)
    world.fill_cached(cpu)
    world.step(cpu)
    plans = [
        world.plan(case.rows, [{page for page in world.tables[0] if owner_of_page[page] != owner}]) for owner in order
    ]
    plan: Plan = joined(world.plan(case.rows), tuple(plan.groups[0].parts[0] for plan in plans))
    q_THD = world.gather(world.q, case.rows)
    for backend in (cpu, ReferenceAttend(world.pool.memory)):
        assert close(backend.attend(q_THD, plan, 1), world.oracle())


def test_one_part_read_twice_doubles_the_mass() -> None:
    case = Case(lengths=(50,), rows=((49,),))
    world = World.of(case)
    cpu = CpuAttend(world.pool.memory, threads=1)
    world.fill_cached(cpu)
    out, lse = world.step(cpu)
    plan = world.plan(case.rows)
    twice = joined(plan, (plan.groups[0].parts[0], dataclasses.replace(plan.groups[0].parts[0])))
    found = cpu.attend(world.gather(world.q, case.rows), twice, 1)
    assert close(found, (out, lse + torch.log(torch.tensor(2.0))))
