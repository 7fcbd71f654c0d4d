"""A step cut into ranges of layers has the bits of the step in one piece, and rows may stay behind at every cut."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny
from bench.full_cache import FullCache
from equivalence.test_families import CASES, TOLERANCE, Case, random_model
from equivalence.test_fused import LENGTH, apart, load, tokens
from kvloom.arrays import Bytes, Floats, aligned_bytes
from kvloom.attend.base import Attend
from kvloom.attend.builder import Rows, build_plan
from kvloom.attend.cpu import CpuAttend
from kvloom.attend.narrow import narrowed
from kvloom.attend.observe import NOBODY, Observers
from kvloom.attend.plan import Plan
from kvloom.attend.reference import ReferenceAttend
from kvloom.config import CacheConfig, EngineConfig, SchedulerConfig
from kvloom.engine.engine import Engine
from kvloom.engine.layout import KvLayout
from kvloom.engine.params import SamplingParams
from kvloom.errors import InternalError
from kvloom.memory.arena import GRAIN_BYTES
from kvloom.memory.format import PAGE_TOKENS
from kvloom.memory.table import PageTable
from kvloom.model.base import Indices, Model, Scores
from kvloom.model.decoder import Decoder
from kvloom.model.kv_map import KvMap
from kvloom.policy.retention.lru import LeastRecentlyUsed
from kvloom.segment import PageId, Span, SpanSet

SEVERAL = (LENGTH, 19, 7)
"""Positions of the sequences of a batch."""


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.name)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    return load(request.param, tmp_path_factory.mktemp("model"))


@pytest.fixture
def small_model(tmp_path: Path) -> Decoder:
    return load(CASES[0], tmp_path)


class Pages:
    """Memory and page tables for several sequences."""

    def __init__(self, kv_map: KvMap, lengths: Sequence[int], kv_dtype: str = "float32") -> None:
        layout = KvLayout(kv_map, CacheConfig(kv_dtype=kv_dtype), step_tokens=512)
        self.layers = layout.layers
        self.tables: list[tuple[PageTable, ...]] = [layout.new_tables() for _ in lengths]
        grain = 0
        for tables, length in zip(self.tables, lengths, strict=True):
            for table, index in itertools.product(tables, range(-(-length // PAGE_TOKENS))):
                table.put(index, PageId(grain), filled=0, writable=True)
                grain += -(-table.format.page_bytes // GRAIN_BYTES)
        self.memory = aligned_bytes(grain * GRAIN_BYTES)
        self.memory[:] = 0

    def plan(self, rows: Sequence[Sequence[int]]) -> Plan:
        """A step that asks at these positions of every sequence; one without any is not in it."""
        asked = [
            Rows(SpanSet.of(Span(position, position + 1) for position in positions), tables)
            for positions, tables in zip(rows, self.tables, strict=True)
            if positions
        ]
        return build_plan(asked, self.layers)


@dataclasses.dataclass(frozen=True)
class Step:
    """``rows``: positions by sequence. ``cuts``: where ranges end, ascending. ``stay``: rows that go on after each.

    ``stay`` counts rows of the whole step, so each has to be found among those that are still there.
    """

    rows: tuple[tuple[int, ...], ...]
    cuts: tuple[int, ...]
    stay: tuple[tuple[int, ...], ...] = ()

    def ids(self) -> Indices:
        return np.concatenate([tokens()[list(positions)] for positions in self.rows])

    def ranges(self, layers: int) -> list[range]:
        return [range(*pair) for pair in itertools.pairwise((0, *self.cuts, layers))]


@st.composite
def steps(draw: st.DrawFn, layers: int, narrow: bool = False) -> list[Step]:
    """Two, that close all positions of the sequences of ``SEVERAL``."""
    firsts = [draw(st.integers(1, length - 1)) for length in SEVERAL]
    pieces = (
        [range(first) for first in firsts],
        [range(first, length) for first, length in zip(firsts, SEVERAL, strict=True)],
    )
    drawn = []
    for rows in pieces:
        cuts = tuple(sorted(draw(st.lists(st.integers(0, layers), max_size=4))))
        there, stay = list(range(sum(map(len, rows)))), []
        for _ in cuts if narrow else ():
            there = [row for row in there if draw(st.integers(0, 3))] or there[:1]
            stay.append(tuple(there))
        drawn.append(Step(tuple(map(tuple, rows)), cuts, tuple(stay)))
    return drawn


def in_ranges(model: Model, step: Step, plan: Plan, attend: Attend) -> tuple[Floats, Indices]:
    """What comes out of the last layer, and which of the step's rows that is."""
    x, there = model.embed(step.ids()), np.arange(plan.num_rows)
    for index, layers in enumerate(step.ranges(len(model.kv_map.layers))):
        rows = None
        if index < len(step.stay):
            rows = np.searchsorted(there, step.stay[index])
        before = x.copy()
        out = model.run(x, plan, attend, layers, rows)
        assert np.array_equal(x, before), "what comes in is not ours to change"
        x = out
        if rows is not None:
            plan, there = narrowed(plan, rows), there[rows]
    return x, there


@given(data=st.data())
@settings(max_examples=12, deadline=None)
def test_any_cut_has_the_same_bits(model: Decoder, data: st.DataObject) -> None:
    """Fused or op by op, for several sequences at once: x, logits and all KV."""
    drawn = data.draw(steps(len(model.blocks)))
    kv_dtype = data.draw(st.sampled_from(["float32", "int16"]))
    whole, *cut = (Pages(model.kv_map, SEVERAL, kv_dtype) for _ in range(3))
    for step in drawn:
        attend = CpuAttend(whole.memory, threads=2)
        expected = model.forward(step.ids(), whole.plan(step.rows), attend)
        scores = model.scores(step.ids(), whole.plan(step.rows), attend, np.arange(len(expected)))
        for runner, pages in zip((model, apart(model)), cut, strict=True):
            x, _ = in_ranges(runner, step, pages.plan(step.rows), CpuAttend(pages.memory, threads=2))
            assert np.array_equal(x, expected)
            assert np.array_equal(runner.logits(x), scores.logits_RV)
            assert np.array_equal(pages.memory, whole.memory)


@given(data=st.data())
@settings(max_examples=12, deadline=None)
def test_rows_that_stay_behind_change_nothing_for_the_others(model: Decoder, data: st.DataObject) -> None:
    """Their KV of later layers is not written. Where it is there already, the others get the bits of the whole step."""
    drawn = data.draw(steps(len(model.blocks), narrow=True))
    whole, *fresh = (Pages(model.kv_map, SEVERAL) for _ in range(3))
    for step in drawn:
        expected = model.forward(step.ids(), whole.plan(step.rows), CpuAttend(whole.memory, threads=2))
        written = whole.memory.copy()
        found = []
        for runner, pages in zip((model, apart(model)), fresh, strict=True):
            x, there = in_ranges(runner, step, whole.plan(step.rows), CpuAttend(whole.memory, threads=2))
            assert np.array_equal(x, expected[there])
            assert np.array_equal(whole.memory, written)
            found.append(in_ranges(runner, step, pages.plan(step.rows), CpuAttend(pages.memory, threads=2))[0])
        assert np.array_equal(*found)
        assert np.array_equal(fresh[0].memory, fresh[1].memory)


@given(data=st.data())
@settings(max_examples=12, deadline=None)
def test_a_narrowed_plan_is_the_plan_of_those_rows(model: Decoder, data: st.DataObject) -> None:
    """Also where a sequence has none of them."""
    placed = [(b, position) for b, length in enumerate(SEVERAL) for position in range(length)]
    rows = np.array(sorted(data.draw(st.sets(st.sampled_from(range(len(placed))), min_size=1))))
    kept = [[position for c, position in (placed[row] for row in rows) if c == b] for b in range(len(SEVERAL))]
    x = np.random.default_rng(3).standard_normal((len(rows), model.embedding.cols)).astype(np.float32)

    def after(pages: Pages, plan: Plan, runner: Decoder) -> tuple[Floats, Bytes]:
        attend = CpuAttend(pages.memory, threads=2)
        return runner.run(x, plan, attend, range(1, len(model.blocks))), pages.memory

    made = [Pages(model.kv_map, SEVERAL) for _ in range(3)]
    expected, memory = after(made[0], made[0].plan(kept), model)
    for pages, runner in zip(made[1:], (model, apart(model)), strict=True):
        full = pages.plan([range(length) for length in SEVERAL])
        found, found_memory = after(pages, narrowed(full, rows), runner)
        assert np.array_equal(found, expected)
        assert np.array_equal(found_memory, memory)


def test_the_reference_takes_a_narrowed_plan(small_model: Decoder) -> None:
    rows, found = np.array([2, 3, 40, LENGTH + 18]), []  # none of the third sequence
    for kind in (lambda memory: CpuAttend(memory, threads=1), ReferenceAttend):
        pages = Pages(small_model.kv_map, SEVERAL)
        plan, attend = pages.plan([range(length) for length in SEVERAL]), kind(pages.memory)
        ids = np.concatenate([tokens()[:length] for length in SEVERAL])
        x = small_model.run(small_model.embed(ids), plan, attend, range(2), rows)
        found.append(small_model.run(x, narrowed(plan, rows), attend, range(2, 3)))
    np.testing.assert_allclose(*found, atol=TOLERANCE, rtol=0)


class LayerByLayer(Decoder):
    """Runs every step in ranges of one layer."""

    @staticmethod
    def of(model: Decoder) -> LayerByLayer:
        return LayerByLayer(**{field.name: getattr(model, field.name) for field in dataclasses.fields(model)})

    def forward(
        self,
        tokens_T: Indices,
        plan: Plan,
        attend: Attend,
        rows_R: Indices | None = None,
        observers: Observers = NOBODY,
    ) -> Floats:
        x = self.embed(tokens_T)
        for layer in range(len(self.blocks)):
            rows = rows_R if layer + 1 == len(self.blocks) else None
            x = self.run(x, plan, attend, range(layer, layer + 1), rows, observers)
        return x

    def scores(
        self, tokens_T: Indices, plan: Plan, attend: Attend, rows_R: Indices, observers: Observers = NOBODY
    ) -> Scores:
        return Scores.of(self.logits(self.forward(tokens_T, plan, attend, rows_R, observers)))


def test_an_engine_that_runs_layer_by_layer_answers_alike(model: Decoder) -> None:
    """Prompts of many lengths in small steps, prefix hits among them, scores compared with ==."""
    prompts = {f"r{n}": tokens()[: 5 + 4 * n].tolist() for n in range(9)}
    config = EngineConfig(
        model="m",
        cache=CacheConfig(kv_bytes="8MiB", slab_bytes=64 * 1024),
        scheduler=SchedulerConfig(step_tokens=24),
    )
    params = SamplingParams(temperature=0.0, max_tokens=6, ignore_eos=True, logprobs=2, prompt_logprobs=0)

    def answers(runner: Decoder) -> dict[str, list]:
        attend = lambda arena: CpuAttend(arena.memory, threads=2)  # noqa: E731
        done = tiny.run(Engine(runner, tiny.CharTokenizer(), config, attend, LeastRecentlyUsed()), prompts, params)
        return {
            name: [(d.token_ids, d.logprobs) for u in request.updates for d in u.deltas]
            + [request.updates[-1].prompt_logprobs]
            for name, request in done.items()
        }

    assert answers(model) == answers(LayerByLayer.of(model))


def test_the_model_of_the_other_tests_keeps_the_contract() -> None:
    model = tiny.TinyModel((None, 8, None))
    whole, cut = Pages(model.kv_map, SEVERAL), Pages(model.kv_map, SEVERAL)
    step = Step(tuple(tuple(range(length)) for length in SEVERAL), (0, 1, 1, 3))
    expected = model.forward(step.ids(), whole.plan(step.rows), CpuAttend(whole.memory, threads=1))
    found, _ = in_ranges(model, step, cut.plan(step.rows), CpuAttend(cut.memory, threads=1))
    assert np.array_equal(found, expected)
    assert np.array_equal(cut.memory, whole.memory)


# -- what ranges are good for ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_probe_sees_the_hidden_states_of_transformers(case: Case, tmp_path: Path) -> None:
    """Between two ranges lies what goes from layer to layer."""
    ours, theirs = load(case, tmp_path), random_model(case)
    ids = tokens()
    with torch.no_grad():
        hidden = theirs(torch.from_numpy(ids)[None], output_hidden_states=True).hidden_states
    cache = FullCache(ours.kv_map, LENGTH)
    plan, attend, x = cache.plan(0, LENGTH), CpuAttend(cache.memory, threads=2), ours.embed(ids)
    for layer in range(len(ours.blocks)):  # the last of theirs has been through the final norm
        torch.testing.assert_close(torch.from_numpy(x), hidden[layer][0], atol=TOLERANCE, rtol=0)
        x = ours.run(x, plan, attend, range(layer, layer + 1))
    with torch.no_grad():
        early = theirs.lm_head(theirs.model.norm(hidden[1][0]))
    cache = FullCache(ours.kv_map, LENGTH)
    x = ours.run(ours.embed(ids), cache.plan(0, LENGTH), CpuAttend(cache.memory, threads=2), range(1))
    torch.testing.assert_close(torch.from_numpy(ours.logits(x)), early, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("exit_layer", [1, 2])
def test_drafts_that_leave_early(model: Decoder, exit_layer: int) -> None:
    """Four tokens from the first layers; the other layers check them together, from where the draft left off."""
    prompt, count, ahead = tokens()[:20], 16, 4
    cache = FullCache(model.kv_map, LENGTH)
    attend, first, rest = CpuAttend(cache.memory, threads=2), range(exit_layer), range(exit_layer, len(model.blocks))

    def argmaxes(x: Floats) -> list[int]:
        return model.logits(x).argmax(axis=1).tolist()

    done = prompt.tolist()
    x = model.forward(prompt, cache.plan(0, len(prompt)), attend, np.array([len(prompt) - 1]))
    done += argmaxes(x)
    while len(done) < len(prompt) + count:
        at, draft, left = len(done) - 1, [done[-1]], []
        for n in range(ahead):
            left.append(model.run(model.embed(np.array(draft[-1:])), cache.plan(at + n, at + n + 1), attend, first))
            draft += argmaxes(left[-1])
        checked = argmaxes(model.run(np.concatenate(left), cache.plan(at, at + ahead), attend, rest))
        agree = next((n for n in range(ahead - 1) if checked[n] != draft[n + 1]), ahead - 1)
        done += checked[: agree + 1]
    assert done[: len(prompt) + count] == greedy(model, prompt, count)


def greedy(model: Decoder, prompt: Indices, count: int) -> list[int]:
    cache, done, start = FullCache(model.kv_map, LENGTH), prompt.tolist(), 0
    attend = CpuAttend(cache.memory, threads=2)
    for _ in range(count):
        rows = np.array(done[start:])
        scores = model.scores(rows, cache.plan(start, len(done)), attend, np.array([len(rows) - 1]))
        start = len(done)
        done += scores.argmax_R
    return done


# -- what is no range --------------------------------------------------------------------------------------------------


def test_seconds_are_counted_in_ranges_too(small_model: Decoder) -> None:
    cache = FullCache(small_model.kv_map, LENGTH)
    before = small_model.operator_seconds()
    x = small_model.embed(tokens())
    x = small_model.run(x, cache.plan(0, LENGTH), CpuAttend(cache.memory, threads=1), range(1, 2))
    small_model.logits(x)
    after = small_model.operator_seconds()
    assert {name for name in after if after[name] > before[name]} == set(after) - {"observe", "argmax"}  # nobody asked


@pytest.mark.parametrize("layers", [range(4), range(-1, 2), range(2, 1), range(0, 3, 2)], ids=str)
def test_layers_that_are_not_there(small_model: Decoder, layers: range) -> None:
    cache = FullCache(small_model.kv_map, LENGTH)
    attend, plan = CpuAttend(cache.memory, threads=1), cache.plan(0, LENGTH)
    x = small_model.embed(tokens())
    for runner in (small_model, apart(small_model)):
        with pytest.raises(InternalError, match="of a model with 3 layers"):
            runner.run(x, plan, attend, layers)
    if layers.step == 1:
        assert small_model.fused is not None
        with pytest.raises(InternalError, match="no such layers"):
            small_model.fused.run(x, attend.bind(plan), layers, np.arange(LENGTH))


def test_what_does_not_fit_is_refused(small_model: Decoder) -> None:
    cache = FullCache(small_model.kv_map, LENGTH)
    attend, plan = CpuAttend(cache.memory, threads=1), cache.plan(0, LENGTH)
    x = small_model.embed(tokens())
    for wrong, message in ((x[1:], "one x per row"), (x[:, :32], "as wide as"), (x.astype(np.float64), "float32")):
        with pytest.raises(InternalError, match=message):
            small_model.run(wrong, plan, attend, range(1))
    for rows in ([3, 2], [2, 2]):
        with pytest.raises(InternalError, match="ascend"):
            small_model.run(x, plan, attend, range(0), np.array(rows))
    with pytest.raises(InternalError, match="not there"):
        small_model.run(x, plan, attend, range(0), np.array([LENGTH]))
    with pytest.raises(InternalError, match="vocabulary"):
        small_model.embed(np.array([96]))
    with pytest.raises(InternalError, match="as wide as"):
        small_model.logits(x[:, :32])
    strided = np.repeat(x, 2, axis=0)[::2]
    assert np.array_equal(small_model.run(strided, plan, attend, range(0)), x), "any strides will do"
