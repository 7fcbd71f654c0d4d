"""Parts of every kind: lists by sequence or by head, contiguous or labelled entries, masks, shifts; in any company."""

from __future__ import annotations

import dataclasses

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from attend_cases import softmax_oracle, stored_tolerance
from in_torch import CpuAttend, ReferenceAttend, met_queries
from kvloom.attend.builder import Rows
from kvloom.attend.plan import Contiguous, Part, Plan, Rotations
from kvloom.codec import CODECS
from kvloom.kernels import isas
from kvloom.memory.format import PAGE_TOKENS
from list_cases import KINDS, Kind, ListWorld, Shape, rows

State = tuple[torch.Tensor, torch.Tensor]
LIMIT = 700
ASKED = ((330, *range(600, 640)), (699,), (20, 21))


def close(a: State, b: State, tolerance: float = 1e-5) -> bool:
    return all(torch.allclose(x, y, rtol=tolerance, atol=tolerance) for x, y in zip(a, b, strict=True))


def same(a: State, b: State) -> bool:
    return torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])


def only(plan: Plan, *parts: Part) -> Plan:
    """A plan whose group has these parts, each read for itself."""
    (group,) = plan.groups
    return dataclasses.replace(plan, groups=(dataclasses.replace(group, parts=parts, seams=()),))


def batch(world: ListWorld, kind: Kind, empty: int = 2) -> Plan:
    """Three sequences with lists of one kind; one of them has none."""
    asked = [
        rows(at, world.table(LIMIT), [] if b == empty else [world.lists(kind, LIMIT)]) for b, at in enumerate(ASKED)
    ]
    return world.plan(asked)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize(("even", "window"), [(True, None), (False, 150)])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_every_kind_equals_the_reference_on_every_instruction_set(
    kind: Kind, even: bool, window: int | None, codec: str
) -> None:
    world = ListWorld(Shape(codec=codec), window, seed=sum(map(ord, str(kind))))
    plan = batch(world, dataclasses.replace(kind, even=even))
    (group,) = plan.groups
    assert len(group.parts) == 2
    q_THD = world.queries(plan.num_rows)
    for asked in (plan, only(plan, group.parts[1]), only(plan, *group.parts[::-1])):
        wanted = ReferenceAttend(world.memory).attend(q_THD, asked, 1)
        found = CpuAttend(world.memory, 2).attend(q_THD, asked, 1)
        assert close(found, wanted, stored_tolerance(codec))
        for isa in isas():
            assert same(CpuAttend(world.memory, 1, isa).attend(q_THD, asked, 1), found), isa


@st.composite
def companies(draw: st.DrawFn) -> tuple[ListWorld, list[Rows]]:
    """Some sequences; each has a table, of one of two formats, and any lists."""
    group, kv_heads = draw(st.sampled_from([(1, 2), (3, 1), (2, 2)]))
    codec = draw(st.sampled_from(list(CODECS)))
    shape = Shape(group * kv_heads, kv_heads, codec=codec)
    world = ListWorld(shape, draw(st.sampled_from([None, None, 90])), draw(st.integers(0, 1000)))
    asked = []
    for _ in range(draw(st.integers(1, 3))):
        length = draw(st.integers(1, 500))
        positions = sorted(draw(st.sets(st.integers(0, length - 1), min_size=1, max_size=4)))
        if draw(st.booleans()):
            positions = list(range(max(0, length - draw(st.sampled_from([1, 20, 90]))), length))
        kinds = draw(st.lists(st.sampled_from(KINDS), max_size=3))
        kinds = [
            dataclasses.replace(k, even=draw(st.booleans()), shift=draw(st.sampled_from([k.shift, -5]))) for k in kinds
        ]
        other = draw(st.sampled_from([None, "float16"]))
        lists = [world.lists(kind, length, most=20) for kind in kinds]
        asked.append(rows(positions, world.table(length, other), lists))
    return world, asked


@settings(max_examples=25, deadline=None)
@given(company=companies(), threads=st.sampled_from([1, 2, 3]))
def test_company_does_not_show(company: tuple[ListWorld, list[Rows]], threads: int) -> None:
    """Whatever formats and lists the others have, a sequence gets the bits that it gets alone."""
    world, asked = company
    cpu, plan = CpuAttend(world.memory, threads), world.plan(asked)
    q_THD = world.queries(plan.num_rows)
    found = cpu.attend(q_THD, plan, 1)
    wanted = ReferenceAttend(world.memory).attend(q_THD, plan, 1)
    assert close(found, wanted, stored_tolerance(world.shape.codec))
    bounds = plan.seq_rows_B1.tolist()
    for b, alone in enumerate(asked):
        mine = slice(bounds[b], bounds[b + 1])
        assert same(cpu.attend(q_THD[mine], world.plan([alone]), 1), (found[0][mine], found[1][mine]))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.masked and not kind.shift], ids=str)
def test_masks_and_shifts_that_say_nothing_do_not_show(kind: Kind) -> None:
    world = ListWorld(Shape(codec="int16"), seed=3)
    plan = batch(world, kind)
    (group,) = plan.groups
    part, cpu, q_THD = group.parts[1], CpuAttend(world.memory, 2), world.queries(plan.num_rows)
    wanted = cpu.attend(q_THD, only(plan, part), 0)
    full = dataclasses.replace(part, masks_P=np.full(part.page_ids_P.size, 0xFFFF, np.uint16))
    assert same(cpu.attend(q_THD, only(plan, full), 0), wanted)
    still = np.zeros(1, np.int32)
    rotations = Rotations(still, *world.rope.turns(still))
    turned = dataclasses.replace(part, turns_L=np.zeros(part.lists.bounds_L1.size - 1, np.int32))
    (bare,) = only(plan, turned).groups
    turned_plan = dataclasses.replace(plan, groups=(dataclasses.replace(bare, rotations=rotations),))
    assert same(cpu.attend(q_THD, turned_plan, 0), wanted)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("by_head", [False, True])
def test_a_mask_hides_what_it_does_not_name(by_head: bool, codec: str) -> None:
    """Against dense softmax: half of all entries are hidden, and hold NaN."""
    world, kind = ListWorld(Shape(codec=codec, v_dim=32), seed=8), Kind(by_head, False, True, masked=True)
    lists, asked = world.lists(kind, LIMIT), (5, 300, 699)
    plan = world.plan([rows(asked, world.table(LIMIT), [lists])])
    (group,) = plan.groups
    part, q_THD = group.parts[1], world.queries(len(asked))
    out, lse = CpuAttend(world.memory, 2).attend(q_THD, only(plan, part), 1)
    reference = ReferenceAttend(world.memory)._backend
    for head in range(2):
        at = part.list_of(0, 1, head)
        bounds = slice(*part.lists.bounds_L1[at : at + 2].tolist())
        assert isinstance(part.entries, Contiguous)
        starts, masks = part.entries.starts_P[bounds], part.masks_P[bounds]
        everywhere = [
            (s + n) for s, mask in zip(starts, masks, strict=True) for n in range(PAGE_TOKENS) if mask >> n & 1
        ]
        k, v, positions, _ = reference._entries(part, at, 1, head, last=10**6)
        assert positions.tolist() == everywhere
        visible = torch.tensor(everywhere)[None] <= torch.tensor(asked)[:, None]
        q = q_THD[:, 2 * head : 2 * head + 2]
        q = met_queries(part.format, q)
        wanted = softmax_oracle(q, k[:, None], v[:, None], visible, 0.125)
        found = out[:, 2 * head : 2 * head + 2].double(), lse[:, 2 * head : 2 * head + 2].double()
        assert close(found, wanted, stored_tolerance(codec))


@pytest.mark.parametrize("codec", ["float32", "int16"])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.shift], ids=str)
def test_a_shift_reads_keys_as_if_they_had_been_rotated_for_where_they_stand(kind: Kind, codec: str) -> None:
    """The same raw keys, rotated for two places: a list with a shift, and one without, 37 positions further."""
    asked, found = (70, 300, 650), []
    for moved in (0, kind.shift):
        world = ListWorld(Shape(codec=codec), window=400, seed=5)
        one = world.lists(kind, LIMIT, raw=True, moved=moved)
        one = dataclasses.replace(one, shift=kind.shift - moved)
        plan = world.plan([rows(asked, world.table(LIMIT), [one])])
        part = plan.groups[0].parts[1]
        found.append(CpuAttend(world.memory, 2).attend(world.queries_at(asked), only(plan, part), 1))
    assert close(found[0], found[1], 1e-4 if codec == "float32" else 2e-3)
