"""Statistics of attention: against dense softmax, against the reference, and however the work is cut.

Legend: T rows, S columns, H query heads, K KV heads, N results by head.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from attend_cases import Case, World, head_pool, joined, kept_part
from equivalence.test_attend import backend, cases, only_part
from equivalence.test_attend_lists import ASKED, LIMIT, batch, only
from equivalence.test_families import CASES
from equivalence.test_fused import LENGTH, apart, load, tokens
from equivalence.test_layer_ranges import SEVERAL, Pages, Step, steps
from in_torch import CpuAttend, ReferenceAttend, TensorAttend, met_queries, rounded_keys
from kvloom.arrays import Floats
from kvloom.attend import cpu, reference
from kvloom.attend.narrow import narrowed
from kvloom.attend.observe import Observation, Observers, Probe, QueryRecord, Reduce, Tally, asked_of
from kvloom.attend.plan import Plan
from kvloom.codec import CODECS
from kvloom.errors import InternalError
from kvloom.kernels import isas
from kvloom.model.decoder import Decoder
from kvloom.segment import Span, SpanSet
from list_cases import KINDS, Kind, ListWorld, Shape, rows

TOLERANCE = 1e-5
REDUCTIONS = list(Reduce)


def positions(chosen: Sequence[int]) -> SpanSet:
    return SpanSet.of(Span(p, p + 1) for p in chosen)


def tell(under_test: TensorAttend, q_THD: torch.Tensor, plan: Plan, layer: int, observers: Observers) -> None:
    """Attend, and observe as a model does."""
    plain = under_test._backend if isinstance(under_test, ReferenceAttend) else under_test
    _, lse_TH = under_test.attend(q_THD, plan, layer)
    plain.observe(q_THD.numpy(), lse_TH.numpy(), plan, layer, asked_of(plan, observers))


def dense(scores_THS: torch.Tensor, reduce: Reduce, heads: int) -> torch.Tensor:
    """Softmax in float64 and its reduction over rows, by head (N, S). Scores of what is not seen are minus infinity."""
    p_THS = torch.softmax(scores_THS.double(), dim=-1).nan_to_num(nan=0.0)
    if reduce is Reduce.SUM:
        return p_THS.sum(0).unflatten(0, (heads, -1)).sum(1)
    return p_THS.amax(0).unflatten(0, (heads, -1)).amax(1)


def assert_close(found: Floats, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(torch.from_numpy(found).double(), wanted, atol=TOLERANCE, rtol=TOLERANCE)


# -- against dense softmax ---------------------------------------------------------------------------------------------


def dense_scores(world: World, b: int, asked: Sequence[int]) -> torch.Tensor:
    """(T, H, S) over the whole of sequence ``b``."""
    case = world.case
    q, k = met_queries(world.format, world.q[b]), rounded_keys(world.format, world.k[b])
    at, stands = torch.tensor(asked, dtype=torch.long), torch.arange(len(k))
    visible = stands <= at[:, None]
    if case.window is not None:
        visible &= stands > at[:, None] - case.window
    k_SHD = k.double().repeat_interleave(case.heads // case.kv_heads, dim=1)
    scores_THS = torch.einsum("thd,shd->ths", q[at].double(), k_SHD) * case.scale
    return scores_THS.masked_fill(~visible[:, None], -torch.inf)


@settings(max_examples=25, deadline=None)
@given(case=cases(), data=st.data())
def test_tallies_equal_dense_softmax(case: Case, data: st.DataObject) -> None:
    """Any rows of any sequences of a batch, any columns, by KV head or by query head."""
    world = World.of(case)
    world.store(CpuAttend(world.pool.memory, threads=1), [tuple(range(length)) for length in case.lengths])
    under_test = backend(data.draw(st.sampled_from(["reference", *isas()])), world.pool.memory)
    plan, chosen, observers = world.plan(case.rows), {}, {}
    for b, asked in enumerate(case.rows):
        chosen[b] = sorted(data.draw(st.sets(st.sampled_from(asked), min_size=1)))
        if data.draw(st.booleans()):
            chosen[b] = list(asked)[-32:]
        start = data.draw(st.integers(0, case.lengths[b] - 1))
        columns = Span(start, data.draw(st.integers(start + 1, case.lengths[b] + 20)))
        heads = data.draw(st.sampled_from([case.kv_heads, case.heads]))
        observers[b] = [
            Tally.of(Observation(positions(chosen[b]), columns, reduce), [1], heads) for reduce in REDUCTIONS
        ]
    tell(under_test, world.gather(world.q, case.rows), plan, 1, observers)
    for b, tallies in observers.items():
        for tally in tallies:
            wanted_NS = dense(dense_scores(world, b, chosen[b]), tally.observation.reduce, tally.running_LNS.shape[1])
            columns = tally.observation.columns
            beyond = max(0, columns.stop - case.lengths[b])
            assert_close(
                tally.result()[0], torch.nn.functional.pad(wanted_NS, (0, beyond))[:, columns.start : columns.stop]
            )
            assert tally.counted_L.tolist() == [len(chosen[b])]


@pytest.mark.parametrize("heads", [2, 6])
@pytest.mark.parametrize("codec", CODECS)
def test_parts_with_labels_biases_and_missing_pages_equal_dense_softmax(codec: str, heads: int) -> None:
    """The log-sum-exp is that over both parts. Entries that both parts have count for both."""
    case = Case(lengths=(600, 70), rows=((*range(560, 600),), (3, 69)), heads=6, kv_heads=2, codec=codec)
    world = World.of(case)
    pool = head_pool(case)
    world.pool, world.tables = pool, [{n: pool.free.pop() for n in table} for table in world.tables]
    cpu_attend = CpuAttend(pool.memory, threads=2)
    world.store(cpu_attend, [tuple(range(length)) for length in case.lengths])
    part, kept, bias_S = kept_part(world, 0.3, pool, below=512)
    recent, first = only_part(world.plan(case.rows, absent=[set(range(20)), {0}])), (320, 16)
    plan, layer = joined(world.plan(case.rows), (recent, part)), 1
    observers = {
        b: [
            Tally.of(Observation(positions(asked), Span(0, case.lengths[b]), reduce), [layer], heads)
            for reduce in REDUCTIONS
        ]
        for b, asked in enumerate(case.rows)
    }
    tell(cpu_attend, world.gather(world.q, case.rows), plan, layer, observers)
    for b, tallies in observers.items():
        length = case.lengths[b]
        scores_THS = dense_scores(world, b, case.rows[b])
        recent_THS = scores_THS.masked_fill(torch.arange(length) < first[b], -torch.inf)
        kept_THS = torch.full_like(scores_THS, -torch.inf)
        for head in range(case.kv_heads):
            at, of_head = kept[layer, b, head], slice(3 * head, 3 * head + 3)
            kept_THS[:, of_head, at] = scores_THS[:, of_head, at] + bias_S[at].double()
        for tally in tallies:
            both_NS = dense(torch.cat([recent_THS, kept_THS], dim=-1), tally.observation.reduce, heads)
            pair = both_NS[:, :length], both_NS[:, length:]
            wanted_NS = pair[0] + pair[1] if tally.observation.reduce is Reduce.SUM else torch.maximum(*pair)
            assert_close(tally.result()[0], wanted_NS)


def test_probabilities_of_every_row_add_up_to_one() -> None:
    """Also through shifts: columns are where entries stand now."""
    for kind in KINDS:
        world = ListWorld(Shape(codec="int16"), seed=4)
        plan = batch(world, kind)
        observers = {
            b: [Tally.of(Observation(positions(asked), Span(0, LIMIT), Reduce.SUM), [1], 4)]
            for b, asked in enumerate(ASKED)
        }
        tell(CpuAttend(world.memory, 2), world.queries(plan.num_rows), plan, 1, observers)
        for b, asked in enumerate(ASKED):
            np.testing.assert_allclose(observers[b][0].result().sum(axis=-1), len(asked), rtol=1e-5)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.shift], ids=str)
def test_a_shift_moves_the_columns_with_the_entries(kind: Kind) -> None:
    """The same raw keys, rotated for two places: a list with a shift, and one without, 37 positions further."""
    asked, found = (70, 300, 650), []
    for moved in (0, kind.shift):
        world = ListWorld(Shape(), window=400, seed=5)
        one = dataclasses.replace(world.lists(kind, LIMIT, raw=True, moved=moved), shift=kind.shift - moved)
        plan = world.plan([rows(asked, world.table(LIMIT), [one])])
        tally = Tally.of(Observation(positions(asked), Span(30, 650), Reduce.SUM), [1], 4)
        part_alone = only(plan, plan.groups[0].parts[1])
        tell(CpuAttend(world.memory, 2), world.queries_at(asked), part_alone, 1, {0: [tally]})
        found.append(tally.result())
    np.testing.assert_allclose(*found, atol=1e-4)
    assert found[0].any()


# -- against the reference, and however it is cut ----------------------------------------------------------------------


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_every_kind_equals_the_reference_on_every_instruction_set(kind: Kind, codec: str) -> None:
    even, window = (True, None) if codec in ("float32", "bfloat16") else (False, 150)
    world = ListWorld(Shape(codec=codec), window, seed=sum(map(ord, str(kind))))
    plan = batch(world, dataclasses.replace(kind, even=even))
    q_THD = world.queries(plan.num_rows)

    def tallies(under_test: TensorAttend) -> list[Floats]:
        observers: dict[int, list[Probe]] = {
            b: [
                Tally.of(Observation(positions(asked), Span(10, 690), reduce), [1], heads)
                for reduce in REDUCTIONS
                for heads in (2, 4)
            ]
            for b, asked in enumerate(ASKED)
        }
        tell(under_test, q_THD, plan, 1, observers)
        return [tally.running_LNS for probes in observers.values() for tally in probes if isinstance(tally, Tally)]

    found = tallies(CpuAttend(world.memory, 2))
    for ours, wanted in zip(found, tallies(ReferenceAttend(world.memory)), strict=True):
        np.testing.assert_allclose(ours, wanted, atol=TOLERANCE, rtol=TOLERANCE)
    for isa in isas():
        for ours, same in zip(tallies(CpuAttend(world.memory, 1, isa)), found, strict=True):
            np.testing.assert_array_equal(ours, same, isa)


@settings(max_examples=12, deadline=None)
@given(
    cuts=st.sets(st.integers(1, 599), max_size=12),
    codec=st.sampled_from(list(CODECS)),
    window=st.none() | st.integers(1, 200),
    chosen=st.lists(st.integers(0, 599), min_size=1, max_size=300).map(positions) | st.just(SpanSet.full(600)),
)
def test_chunking_does_not_show(cuts: set[int], codec: str, window: int | None, chosen: SpanSet) -> None:
    """Not in one bit."""
    case = Case(lengths=(600,), rows=(tuple(range(600)),), heads=3, kv_heads=1, codec=codec, window=window)
    found = []
    for edges in ([0, 600], [0, *sorted(cuts), 600]):
        world = World.of(case)
        attend = CpuAttend(world.pool.memory, threads=len(edges) % 3 + 1)
        tallies = [Tally.of(Observation(chosen, Span(0, 600), reduce), [1], 3) for reduce in REDUCTIONS]
        record = QueryRecord.of(chosen, [1], 3, 64)
        for edge in itertools.pairwise(edges):
            asked = [tuple(range(*edge))]
            world.store(attend, asked)
            tell(attend, world.gather(world.q, asked), world.plan(asked), 1, {0: [*tallies, record]})
        found.append([*(tally.running_LNS for tally in tallies), record.queries_LRHD])
        assert all(tally.counted_L.tolist() == [len(chosen)] for tally in tallies)
    for whole, pieces in zip(*found, strict=True):
        np.testing.assert_array_equal(whole, pieces)
    at = torch.tensor([p for span in chosen for p in span.positions()])
    np.testing.assert_array_equal(found[0][2][0], world.q[0][at].numpy())


def test_a_row_that_sees_nothing_gives_nothing() -> None:
    world = World.of(Case(lengths=(40,), rows=((5, 39),), codec="float16"))
    world.store(CpuAttend(world.pool.memory, threads=2), [tuple(range(40))])
    for under_test in (CpuAttend(world.pool.memory, threads=2), ReferenceAttend(world.pool.memory)):
        tallies = [Tally.of(Observation(SpanSet.full(40), Span(0, 40), reduce), [1], 2) for reduce in REDUCTIONS]
        plan = world.plan([(5, 39)], absent=[{0}])
        tell(under_test, world.gather(world.q, [(5, 39)]), plan, 1, {0: tallies})
        sums, most = (tally.result()[0] for tally in tallies)
        np.testing.assert_allclose(sums.sum(axis=1), 2.0, rtol=1e-6)  # one row of two query heads per KV head
        assert not sums[:, :16].any()
        assert (most[:, 16:] > 0).all()


def test_nan_is_not_hidden() -> None:
    world = World.of(Case(lengths=(40,), rows=((38, 39),)))
    attend = CpuAttend(world.pool.memory, threads=1)
    world.store(attend, [tuple(range(40))])
    world.q[0][38] = torch.nan
    tallies = [Tally.of(Observation(SpanSet.full(40), Span(0, 40), reduce), [1], 2) for reduce in REDUCTIONS]
    tell(attend, world.gather(world.q, [(38, 39)]), world.plan([(38, 39)]), 1, {0: tallies})
    assert all(np.isnan(tally.result()[..., :39]).all() and tally.result()[..., 39].all() for tally in tallies)


# -- in a model --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.name)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    return load(request.param, tmp_path_factory.mktemp("model"))


@pytest.fixture
def small_model(tmp_path: Path) -> Decoder:
    return load(CASES[0], tmp_path)


def probes_of(model: Decoder, length: int, chosen: SpanSet) -> list[Probe]:
    spec, layers = model.spec, range(len(model.blocks))
    return [
        Tally.of(Observation(chosen, Span(0, length), Reduce.SUM), layers, spec.kv_heads),
        Tally.of(Observation(chosen, Span(3, length), Reduce.MAX), [1], spec.heads),
        QueryRecord.of(chosen, layers, spec.heads, spec.head_dim),
    ]


def arrays(observers: Observers) -> list[np.ndarray]:
    probes = [probe for of_sequence in observers.values() for probe in of_sequence]
    return [probe.running_LNS if isinstance(probe, Tally) else probe.queries_LRHD for probe in probes]


@given(data=st.data())
@settings(max_examples=12, deadline=None)
def test_who_asks_changes_no_bit_and_gets_the_same_fused_or_not(model: Decoder, data: st.DataObject) -> None:
    """Chunks of several sequences, in one piece and op by op: x, scores, all KV, and the statistics."""
    drawn = data.draw(steps(len(model.blocks)))
    kv_dtype = data.draw(st.sampled_from(["float32", "int16"]))
    chosen = [positions(sorted(data.draw(st.sets(st.integers(0, n - 1), min_size=1)))) for n in SEVERAL]

    def asked() -> Observers:
        return {b: probes_of(model, n, chosen[b]) for b, n in enumerate(SEVERAL)}

    quiet, *watched = (Pages(model.kv_map, SEVERAL, kv_dtype) for _ in range(4))
    observers = [asked() for _ in watched]
    for step in drawn:
        wanted = model.scores(step.ids(), quiet.plan(step.rows), attend_of(quiet), np.arange(len(step.ids())))
        first, second, third = watched
        found = model.scores(
            step.ids(), first.plan(step.rows), attend_of(first), np.arange(len(step.ids())), observers[0]
        )
        x_TC = apart(model).forward(step.ids(), second.plan(step.rows), attend_of(second), None, observers[1])
        nobody = model.forward(step.ids(), third.plan(step.rows), attend_of(third), np.zeros(0, np.int64), observers[2])
        np.testing.assert_array_equal(found.logits_RV, wanted.logits_RV)
        np.testing.assert_array_equal(model.logits(x_TC), wanted.logits_RV)
        assert len(nobody) == 0
        for pages in watched:
            np.testing.assert_array_equal(pages.memory, quiet.memory)
    for others in zip(*map(arrays, observers), strict=True):
        np.testing.assert_array_equal(others[0], others[1])
        np.testing.assert_array_equal(others[0], others[2])
        assert np.isfinite(others[0]).all()


def attend_of(pages: Pages) -> cpu.CpuAttend:
    return cpu.CpuAttend(pages.memory, threads=2)


@given(data=st.data())
@settings(max_examples=6, deadline=None)
def test_layer_ranges_and_rows_that_stay_behind(model: Decoder, data: st.DataObject) -> None:
    """Whatever the cut; rows that did not go on are not in the tallies of later layers."""
    layers = len(model.blocks)
    rows_of = tuple(tuple(range(n)) for n in SEVERAL)
    step, whole, cut = Step(rows_of, ()), Pages(model.kv_map, SEVERAL), Pages(model.kv_map, SEVERAL)
    full = [{b: probes_of(model, n, SpanSet.full(n)) for b, n in enumerate(SEVERAL)} for _ in range(2)]
    model.forward(step.ids(), whole.plan(rows_of), attend_of(whole), None, full[0])
    middle, plan, attend = data.draw(st.integers(0, layers)), cut.plan(rows_of), attend_of(cut)
    x_TC = model.run(model.embed(step.ids()), plan, attend, range(middle), None, full[1])
    model.run(x_TC, plan, attend, range(middle, layers), None, full[1])
    for one, other in zip(arrays(full[0]), arrays(full[1]), strict=True):
        np.testing.assert_array_equal(one, other)
    stay = np.array(sorted(data.draw(st.sets(st.integers(0, plan.num_rows - 1), min_size=1))))
    tally = Tally.of(Observation(SpanSet.full(LENGTH), Span(0, LENGTH), Reduce.SUM), range(layers), model.spec.heads)
    x_RC = model.run(x_TC, plan, attend, range(middle, middle), stay)
    model.run(x_RC, narrowed(plan, stay), attend, range(middle, layers), None, {0: [tally]})
    count = int((stay < LENGTH).sum())
    assert tally.counted_L.tolist() == [0] * middle + [count] * (layers - middle)
    np.testing.assert_allclose(tally.result()[middle:].sum(axis=-1), count, rtol=1e-5)


def test_the_reference_tells_the_same(small_model: Decoder) -> None:
    found = []
    for kind in (lambda memory: cpu.CpuAttend(memory, threads=1), reference.ReferenceAttend):
        pages = Pages(small_model.kv_map, SEVERAL)
        observers = {b: probes_of(small_model, n, SpanSet.full(n)) for b, n in enumerate(SEVERAL)}
        ids = np.concatenate([tokens()[:length] for length in SEVERAL])
        small_model.forward(ids, pages.plan([range(n) for n in SEVERAL]), kind(pages.memory), None, observers)
        found.append(arrays(observers))
    for ours, wanted in zip(*found, strict=True):
        np.testing.assert_allclose(ours, wanted, atol=1e-4, rtol=1e-4)  # the model has rounded in between


def test_nobody_is_told_when_no_row_is_asked_about(small_model: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("nobody asked")

    monkeypatch.setattr(cpu.CpuAttend, "observe", refuse)
    monkeypatch.setattr(cpu.CpuAttend, "bind_observer", refuse)
    pages, probe = Pages(small_model.kv_map, SEVERAL), probes_of(small_model, LENGTH, positions([LENGTH - 1]))[0]
    plan, before = pages.plan([range(8), range(3), ()]), small_model.operator_seconds()["observe"]
    ids = np.concatenate([tokens()[:8], tokens()[:3]])
    for runner in (small_model, apart(small_model)):
        runner.forward(ids, plan, attend_of(pages))
        runner.forward(ids, plan, attend_of(pages), None, {0: [probe], 1: [probe]})
    assert isinstance(probe, Tally)
    assert probe.counted_L.sum() == 0
    assert small_model.operator_seconds()["observe"] == before


def test_probes_that_do_not_fit_are_refused(small_model: Decoder) -> None:
    pages, spec = Pages(small_model.kv_map, SEVERAL), small_model.spec
    plan, ids = pages.plan([range(8), (), ()]), tokens()[:8]
    wrong = {
        "as many results as KV heads": Tally.of(Observation(SpanSet.full(8), Span(0, 8), Reduce.SUM), [0], 3),
        "recorded queries have other heads": QueryRecord.of(SpanSet.full(8), [0], spec.heads, spec.head_dim + 1),
    }
    for fault, probe in wrong.items():
        for runner in (small_model, apart(small_model)):
            with pytest.raises(InternalError, match=fault):
                runner.forward(ids, plan, attend_of(pages), None, {0: [probe]})
    elsewhere = dataclasses.replace(wrong["recorded queries have other heads"], layers=(len(small_model.blocks),))
    small_model.forward(ids, plan, attend_of(pages), None, {0: [elsewhere]})
