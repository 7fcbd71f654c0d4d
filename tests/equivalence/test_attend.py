"""CpuAttend and ReferenceAttend against dense causal attention, and against each other."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from attend_cases import Case, World, head_pool, int32, joined, kept_part, softmax_oracle, stored_tolerance
from in_torch import CpuAttend, ReferenceAttend, TensorAttend, met_queries, rounded_keys, rounded_values
from kvloom.attend.plan import (
    NO_PAGE,
    ByHead,
    BySequence,
    Contiguous,
    Group,
    Labelled,
    LayerPlan,
    Part,
    Plan,
    Rotations,
)
from kvloom.codec import CODECS
from kvloom.errors import ConfigError, InternalError
from kvloom.kernels import isas
from kvloom.memory.cells import decoded

RAW_TOLERANCE = {
    "float32": 1e-5,
    "float16": 2e-3,
    "bfloat16": 2e-2,
    "int16": 2e-3,
    "int8": 5e-2,
}  # against attention over the KV before rounding

WHOLE_VECTORS = {"int16", "int8"}  # keys whose components share a step

LENGTH = 700  # 44 pages, the last one part full; three blocks of the kernels
LAYOUTS = {
    "nothing cached": range(LENGTH),
    "all but the last": [LENGTH - 1],
    "alternate pages": [p for p in range(LENGTH) if p // 16 % 2],
    "hole at the start": [*range(100), LENGTH - 1],
    "hole in the middle": [*range(300, 420), *range(690, LENGTH)],
    "hole at the end": range(523, LENGTH),
}
SHAPES = [(4, 4, 64, 64), (9, 3, 64, 64), (4, 1, 80, 80), (8, 1, 128, 128), (16, 1, 256, 256), (6, 2, 96, 48)]


def error(found: tuple[torch.Tensor, torch.Tensor], wanted: tuple[torch.Tensor, torch.Tensor]) -> float:
    """Largest absolute difference of outputs and lses; lses of nothing must agree exactly."""
    (out, lse), (out_wanted, lse_wanted) = found, wanted
    assert torch.equal(lse.isneginf(), lse_wanted.isneginf())
    some = ~lse.isneginf()
    assert bool((out[~some] == 0).all())
    gaps = [
        out.double().flatten() - out_wanted.flatten(),
        lse[some].double() - lse_wanted[some],
        torch.zeros(1),
    ]
    return float(torch.cat(gaps).abs().max())


def only_part(plan: Plan) -> Part:
    return plan.groups[0].parts[0]


def backend(name: str, memory: torch.Tensor) -> TensorAttend:
    return ReferenceAttend(memory) if name == "reference" else CpuAttend(memory, threads=2, isa=name)


@pytest.mark.parametrize(("name", "codec"), [("reference", "float32"), *((isas()[0], codec) for codec in CODECS)])
@pytest.mark.parametrize(("layout", "shape"), list(zip(LAYOUTS, SHAPES, strict=True)))
def test_segmentations_equal_dense_attention(
    layout: str, shape: tuple[int, int, int, int], name: str, codec: str
) -> None:
    heads, kv_heads, k_dim, v_dim = shape
    rows = (tuple(LAYOUTS[layout]), (40,), (), (0, 1, 2))  # beside decodes, an idle sequence and a fresh one
    lengths = (LENGTH, 41, 17, 3)
    case = Case(lengths=lengths, rows=rows, heads=heads, kv_heads=kv_heads, k_dim=k_dim, v_dim=v_dim, codec=codec)
    world = World.of(case)
    under_test = backend(name, world.pool.memory)
    world.fill_cached(under_test)
    found = world.step(under_test)
    assert error(found, world.oracle()) <= stored_tolerance(codec)
    assert error(found, world.oracle(rounded=False)) <= RAW_TOLERANCE[codec]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Any batch of sequences, each with some runs of new positions between cached ones."""
    lengths, rows = [], []
    for _ in range(draw(st.integers(1, 3))):
        length = draw(st.integers(1, 600))
        cuts = sorted(draw(st.sets(st.integers(0, length), max_size=6)))
        runs = [range(start, stop) for start, stop in zip(cuts[::2], cuts[1::2], strict=False)]
        lengths.append(length)
        rows.append(tuple(sorted({*itertools.chain(*runs), length - 1})))
    group, kv_heads = draw(st.sampled_from([(1, 3), (2, 1), (3, 3), (5, 1), (7, 2), (16, 1)]))
    dims = st.sampled_from([16, 32, 64, 80, 112])
    return Case(
        lengths=tuple(lengths),
        rows=tuple(rows),
        heads=group * kv_heads,
        kv_heads=kv_heads,
        k_dim=draw(dims),
        v_dim=draw(dims),
        codec=draw(st.sampled_from(list(CODECS))),
        window=draw(st.none() | st.integers(1, 600)),
        seed=draw(st.integers(0, 2**31)),
    )


@settings(max_examples=20, deadline=None)
@given(case=cases(), data=st.data())
def test_any_segmentation_equals_dense_attention_and_the_reference(case: Case, data: st.DataObject) -> None:
    world = World.of(case)
    cpu, reference = CpuAttend(world.pool.memory, threads=2), ReferenceAttend(world.pool.memory)
    world.fill_cached(cpu)
    found = world.step(cpu)
    assert error(found, world.oracle()) <= stored_tolerance(case.codec)
    assert error(found, world.oracle(rounded=False)) <= RAW_TOLERANCE[case.codec]
    absent = [set(data.draw(st.lists(st.sampled_from(sorted(table))))) for table in world.tables]
    assert error(world.step(cpu, absent=absent), world.step(reference, absent=absent)) <= stored_tolerance(case.codec)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("isa", isas())
@pytest.mark.parametrize("shape", SHAPES)
def test_every_variant_equals_the_reference(shape: tuple[int, int, int, int], isa: str, codec: str) -> None:
    heads, kv_heads, k_dim, v_dim = shape
    case = Case(
        lengths=(530, 77),
        rows=((*range(50, 64), *range(515, 530)), (76,)),
        heads=heads,
        kv_heads=kv_heads,
        k_dim=k_dim,
        v_dim=v_dim,
        codec=codec,
        window=100,
    )
    world = World.of(case)
    cpu = CpuAttend(world.pool.memory, threads=2, isa=isa)
    for layer in range(2):
        world.fill_cached(cpu, layer)
        absent = [{0, 3, 30}, {1}]
        wanted = world.step(ReferenceAttend(world.pool.memory), absent=absent, layer=layer)
        assert error(world.step(cpu, absent=absent, layer=layer), wanted) <= stored_tolerance(codec)


@settings(max_examples=15, deadline=None)
@given(case=cases(), keep=st.sampled_from([0.0, 0.05, 0.5, 1.0]), window=st.none() | st.integers(1, 300))
def test_pages_of_heads_equal_attention_over_what_is_kept(case: Case, keep: float, window: int | None) -> None:
    case = dataclasses.replace(case, lengths=tuple(min(300, n) for n in case.lengths))
    case = dataclasses.replace(
        case, rows=tuple(tuple(p for p in r if p < n) for r, n in zip(case.rows, case.lengths, strict=True))
    )
    world = World.of(case)
    pool = head_pool(case)
    part, kept, bias_S = kept_part(world, keep, pool)
    plan = joined(world.plan(case.rows), (part,), window)
    q_THD, layer = world.gather(world.q, case.rows), 1
    found = CpuAttend(pool.memory, threads=2).attend(q_THD, plan, layer)
    assert error(found, ReferenceAttend(pool.memory).attend(q_THD, plan, layer)) <= stored_tolerance(case.codec)
    group, row = case.heads // case.kv_heads, 0
    for b, asked in enumerate(case.rows):
        rows = slice(row, row := row + len(asked))
        for head in range(case.kv_heads):
            positions = kept[layer, b, head]
            k = rounded_keys(world.format, world.k[b][positions, head, None])
            v = rounded_values(world.format, world.v[b][positions, head, None])
            visible = positions <= torch.tensor(asked, dtype=torch.long)[:, None]
            if window is not None:
                visible &= positions > torch.tensor(asked, dtype=torch.long)[:, None] - window
            heads = slice(head * group, (head + 1) * group)
            q = met_queries(world.format, q_THD[rows, heads])
            wanted = softmax_oracle(q, k, v, visible, case.scale, bias_S[positions][:, None])
            assert error((found[0][rows, heads], found[1][rows, heads]), wanted) <= stored_tolerance(case.codec)


@pytest.mark.parametrize("isa", isas())
@pytest.mark.parametrize("codec", CODECS)
def test_parts_by_sequence_and_by_head_are_merged(codec: str, isa: str) -> None:
    case = Case(lengths=(600, 70), rows=((*range(560, 600),), (3, 69)), heads=6, kv_heads=2, codec=codec)
    world = World.of(case)
    pool = head_pool(case)
    world.pool, world.tables = pool, [{n: pool.free.pop() for n in table} for table in world.tables]
    cpu, reference = CpuAttend(pool.memory, threads=2, isa=isa), ReferenceAttend(pool.memory)
    world.fill_cached(cpu)
    world.store(cpu, case.rows)
    part, _, _ = kept_part(world, 0.3, pool, below=512)
    recent = only_part(world.plan(case.rows, absent=[set(range(32)), set(range(4))]))
    q_THD = world.gather(world.q, case.rows)
    for parts in ((recent, part), (part, recent)):
        plan = joined(world.plan(case.rows), parts)
        assert error(cpu.attend(q_THD, plan, 1), reference.attend(q_THD, plan, 1)) <= stored_tolerance(codec)


def test_a_row_that_sees_nothing_gets_the_identity() -> None:
    world = World.of(Case(lengths=(40,), rows=((5, 39),), codec="float16"))
    cpu = CpuAttend(world.pool.memory, threads=2)
    world.fill_cached(cpu)
    out, lse = world.step(cpu, absent=[{0}])
    assert bool((out[0] == 0).all())
    assert bool(lse[0].isneginf().all())
    assert bool((out[1] != 0).any())
    assert bool(lse[1].isfinite().all())


def test_a_query_of_nan_answers_nan() -> None:
    world = World.of(Case(lengths=(40,), rows=((38, 39),)))
    cpu = CpuAttend(world.pool.memory, threads=1)
    world.fill_cached(cpu)
    world.q[0][38] = torch.nan
    out, lse = world.step(cpu)
    assert bool(out[0].isnan().all())
    assert bool(lse[0].isnan().all())
    assert bool(out[1].isfinite().all())


SPECIAL = [
    0.0,
    -0.0,
    1e-8,
    -6e-8,
    5.96e-8,
    2.98e-8,
    6.1e-5,
    65504.0,
    65519.9,
    65520.0,
    -1e9,
    3.4e38,
    1e-45,
    torch.inf,
]


@pytest.mark.parametrize("isa", isas())
@pytest.mark.parametrize("codec", CODECS)
def test_write_stores_what_the_codec_says(codec: str, isa: str) -> None:
    case = Case(lengths=(37, 20), rows=((*range(3, 20), 36), (0, 19)), heads=2, kv_heads=2, v_dim=32, codec=codec)
    world, twin = World.of(case), World.of(case)
    ties = 1 + torch.arange(64) * 2.0**-12  # between neighbours in float16, some exactly
    for values in (world.k[0], world.v[0]):
        values[5, 0, : len(SPECIAL)] = torch.tensor(SPECIAL)
        values[6, 1] = ties[: values.shape[-1]]
    twin.k, twin.v = world.k, world.v
    rows = case.rows
    plan = world.plan(rows)
    plan.groups[0].writes[0].row_pages_T[2] = NO_PAGE
    k_TKD, v_TKD = world.gather(world.k, rows), world.gather(world.v, rows)
    CpuAttend(world.pool.memory, threads=2, isa=isa).write(k_TKD, v_TKD, plan, 1)
    ReferenceAttend(twin.pool.memory).write(k_TKD, v_TKD, plan, 1)
    assert torch.equal(world.pool.memory, twin.pool.memory)


@pytest.mark.parametrize("codec", CODECS)
def test_write_keeps_nan(codec: str) -> None:
    memories = []
    for isa in isas():
        world = World.of(Case(lengths=(1,), rows=((0,),), codec=codec))
        world.pool.memory.zero_()
        world.k[0][0, 0, 0] = torch.nan
        world.store(CpuAttend(world.pool.memory, threads=1, isa=isa), [(0,)])
        k_SD, _ = decoded(world.pool.memory.numpy(), world.format, 0, 1, 0)
        assert np.isnan(k_SD[0, 0])
        assert np.isfinite(k_SD[1:]).all()
        assert codec in WHOLE_VECTORS or np.isfinite(k_SD[0, 1:]).all()
        memories.append(world.pool.memory)
    assert all(torch.equal(memories[0], other) for other in memories)


def with_part(group: Group, rotations: Rotations | None = None, **changes: Any) -> Group:
    part = dataclasses.replace(group.parts[0], **changes)
    return dataclasses.replace(group, parts=(part,), rotations=rotations)


def with_writes(group: Group, **changes: Any) -> Group:
    return dataclasses.replace(group, writes=(dataclasses.replace(group.writes[0], **changes),))


def test_a_broken_plan_is_refused() -> None:
    world = World.of(Case(lengths=(40,), rows=((38, 39),)))
    cpu = CpuAttend(world.pool.memory, threads=1)
    q_THD, good = world.gather(world.q, [(38, 39)]), world.plan([(38, 39)])
    (group,) = good.groups
    (part,) = group.parts
    assert isinstance(part.lists, BySequence)
    assert isinstance(part.entries, Contiguous)
    starts, by_head = part.entries.starts_P, ByHead(part.lists.bounds_L1, 2, 1)
    labelled = dataclasses.replace(part.format, labelled=True)
    two, none = np.full(part.page_ids_P.size + 1, 0xFFFF, np.uint16), np.zeros(1, np.int32)
    turned = Rotations(int32([3]), *np.ones((2, 1, 16), np.float32))
    wide = Rotations(int32([3]), *np.ones((2, 1, 48), np.float32))
    broken = {
        "outside of the memory": [
            with_part(group, page_ids_P=part.page_ids_P + 10**6),
            with_writes(group, row_pages_T=int32([-2, 0])),
        ],
        "without overlap": [with_part(group, entries=Contiguous(starts[::-1].copy()))],
        "from 0 to the number of pages": [with_part(group, lists=BySequence(int32([0, 2])))],
        "outside of its page": [with_writes(group, row_slots_T=int32([0, 16]))],
        "incompatible function arguments": [with_part(group, page_ids_P=part.page_ids_P.astype(np.int64))],
        "do not read": [with_part(group, lists=by_head)],
        "one list per reader": [
            with_part(group, lists=ByHead(part.lists.bounds_L1, 2, 2)),
            with_part(group, lists=BySequence(int32([0, 1, 3]))),
        ],
        "one start per page of contiguous entries": [
            with_part(group, entries=Labelled()),
            with_part(group, entries=Contiguous(starts[1:])),
            with_part(group, format=labelled),
        ],
        "one mask per page": [with_part(group, masks_P=two)],
        "one rotation per list": [with_part(group, turns_L=none), with_part(group, turned, turns_L=int32([0, 0]))],
        "rotation is missing": [
            with_part(group, turned, turns_L=int32([1])),
            with_part(group, turned, turns_L=int32([-1])),
        ],
        "wider than a key": [with_part(group, wide, turns_L=none)],
        "has no parts": [dataclasses.replace(group, parts=())],
        "one row of cos and of sin": [with_part(group, dataclasses.replace(turned, shifts_U=int32([1, 2])))],
    }
    for fault, groups in broken.items():
        for bad in groups:
            with pytest.raises(InternalError, match=fault):
                cpu.attend(q_THD, dataclasses.replace(good, groups=(bad,)), 0)
    for layer in (LayerPlan(1, 0, False, 1.0), LayerPlan(0, 2, False, 1.0), LayerPlan(0, -1, False, 1.0)):
        with pytest.raises(InternalError, match="layer 0: slot"):
            cpu.attend(q_THD, dataclasses.replace(good, layers=(layer,)), 0)
    with pytest.raises(InternalError, match="no place for its own KV"):
        cpu.attend(q_THD, dataclasses.replace(good, groups=(dataclasses.replace(group, writes=()),)), 0)
    with pytest.raises(InternalError, match="must ascend"):
        cpu.attend(q_THD, dataclasses.replace(good, positions_T=int32([39, 38])), 0)
    with pytest.raises(InternalError, match="q_THD must be contiguous"):
        cpu.attend(q_THD.double(), good, 0)
    with pytest.raises(InternalError, match="does not own KV"):
        cpu.write(q_THD, q_THD, joined(good, group.parts), 0)
    assert bool(cpu.attend(q_THD, good, 0)[0].isnan().any())  # layer 0 was never written: NaN, and no crash


def test_settings_out_of_range_are_refused() -> None:
    memory = torch.zeros(64, dtype=torch.uint8)
    with pytest.raises(ConfigError, match="threads"):
        CpuAttend(memory, threads=0)
    with pytest.raises(ConfigError, match="cannot run here"):
        CpuAttend(memory, threads=1, isa="avx1024")
    world = World.of(Case(lengths=(4,), rows=((3,),), k_dim=24))
    with pytest.raises(ConfigError, match="multiples of 16"):
        CpuAttend(world.pool.memory, threads=1).attend(world.gather(world.q, [(3,)]), world.plan([(3,)]), 0)
