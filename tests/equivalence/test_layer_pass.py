"""Layer passes: a prompt that goes through the layers range by range has the bits of one that takes ordinary steps,
leaves the others' steps as they are, and gives back all that it holds wherever it ends.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny
from equivalence.test_families import CASES, Case
from equivalence.test_fused import load, tokens
from kvloom.engine.kv import Carried
from kvloom.engine.layer_pass import LayerPass
from kvloom.engine.params import SamplingParams
from kvloom.engine.request import Sequence as RequestSequence
from kvloom.engine.request import Status
from kvloom.engine.scheduler.prefill_budget import Allowance
from kvloom.engine.scheduler.state import Queues, StepPlan
from kvloom.engine.sweep import Sweep
from kvloom.errors import InternalError
from kvloom.memory.arena import GRAIN_BYTES, Arena
from kvloom.memory.index import Index
from kvloom.memory.ledger import Ledger
from kvloom.policy.cost import PrefillCost
from kvloom.policy.retention.lru import LeastRecentlyUsed
from kvloom.segment import Span, SpanSet

MODELS = [(None,) * 6, (None, 24, 24, None, 24, None)]
SCORED = SamplingParams(temperature=0.0, max_tokens=6, ignore_eos=True, logprobs=3)
PROMPTS = {"swept": tiny.random_prompt(150, 1), "other": tiny.random_prompt(41, 2)}
SPLITS = [(6,), (1,) * 6, (2, 4), (5, 1), (3, 2, 1)]


def ranges_of(sizes: Sequence[int]) -> list[range]:
    stops = list(itertools.accumulate(sizes))
    return [range(stop - size, stop) for stop, size in zip(stops, sizes, strict=True)]


@dataclass
class Sweeps:
    """A stage that has the prompts of requests named ``swept`` go through the layers range by range."""

    engine: tiny.Engine
    ranges: Sequence[range]
    between: Callable[[int, SpanSet], SpanSet] = lambda number, positions: positions
    begun: list[RequestSequence] = field(default_factory=list)
    work: list[LayerPass] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.engine.scheduler.stages = (*self.engine.scheduler.stages, self)

    def run(self, queues: Queues, plan: StepPlan) -> None:
        self.work += plan.passes.values()
        for sequence in queues.running:
            fresh = sequence.layerwise is None and len(sequence.kv.missing) > 1 and sequence in plan.chunks
            if sequence.request.id == "swept" and fresh and sequence.kv.missing == plan.chunks[sequence].kv.missing:
                plan.discard(sequence)
                self.begin(sequence)

    def begin(self, sequence: RequestSequence) -> None:
        kv, model = sequence.kv, self.engine.model
        carried = Carried.take(self.engine.ledger, kv.owner, len(kv.missing), model.width)
        if carried is not None:
            sequence.layerwise = Sweep(kv, model.kv_map, self.ranges, kv.missing, carried, self.between)
            self.begun.append(sequence)


def scores(done: tiny.Done) -> list:
    return [entry for update in done.updates for delta in update.deltas for entry in delta.logprobs]


def stored(engine: tiny.Engine) -> dict[tuple[bytes, str], bytes]:
    """The bytes of all whole published pages, by key and format."""
    memory, found = engine.ledger.arena.memory, {}
    for block in engine.ledger.events.idle_blocks.values():
        if len(block.tokens) == 16:
            start = block.page * GRAIN_BYTES
            found[block.key, block.format.name] = bytes(memory[start : start + block.format.page_bytes])
    return found


@pytest.mark.parametrize("windows", MODELS, ids=["full", "hybrid"])
@pytest.mark.parametrize("step_tokens", [13, 64])
@pytest.mark.parametrize("sizes", SPLITS, ids=str)
def test_any_ranges_and_chunks_have_the_bits_of_ordinary_steps(
    windows: tuple[int | None, ...], step_tokens: int, sizes: tuple[int, ...]
) -> None:
    ordinary = tiny.make_engine(windows, step_tokens=step_tokens)
    expected = tiny.run(ordinary, PROMPTS, SCORED)
    engine = tiny.make_engine(windows, step_tokens=step_tokens)
    sweeps = Sweeps(engine, ranges_of(sizes))
    found = tiny.run(engine, PROMPTS, SCORED)
    assert len(sweeps.begun) == 1
    assert max(len(work.spans) for work in sweeps.work) <= step_tokens
    assert sum(len(work.spans) for work in sweeps.work) == len(sizes) * 150
    for name in PROMPTS:
        assert found[name].tokens == expected[name].tokens
        assert scores(found[name]) == scores(expected[name]), "not the same bits"
    pages, expected_pages = stored(engine), stored(ordinary)
    assert {key for key in expected_pages if key[1] == "full"} <= set(pages)
    assert all(pages[key] == expected_pages[key] for key in set(pages) & set(expected_pages))
    assert engine.ledger.held_pages == 0


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_models_of_every_family_do_the_same(case: Case, tmp_path: Path) -> None:
    """With kernels that run a range of layers in one call."""
    model = load(case, tmp_path)
    prompts = {"swept": tokens()[:60].tolist(), "other": tokens()[7:40].tolist()}
    expected = tiny.run(tiny.make_engine(model=model, step_tokens=24), prompts, SCORED)
    engine, layers = tiny.make_engine(model=model, step_tokens=24), len(model.kv_map.layers)
    sweeps = Sweeps(engine, ranges_of((1, layers - 1)))
    found = tiny.run(engine, prompts, SCORED)
    assert len(sweeps.begun) == 1
    assert scores(found["swept"]) == scores(expected["swept"])
    assert scores(found["other"]) == scores(expected["other"])


def test_the_batch_of_the_others_has_their_rows_alone() -> None:
    engine = tiny.make_engine(MODELS[0], step_tokens=32)
    Sweeps(engine, ranges_of((3, 3)))
    tiny.run(engine, PROMPTS, SCORED)
    assert sum(engine.model.rows) == 41 + 5 + 5, "a prompt and the answers' tokens; the swept prompt is not among them"


def test_hits_are_read_and_the_rest_is_swept() -> None:
    prompt = PROMPTS["swept"]
    expected = tiny.run(tiny.make_engine(MODELS[0]), {"swept": prompt}, SCORED)["swept"]
    engine = tiny.make_engine(MODELS[0])
    tiny.run(engine, {"before": prompt[:70]}, SCORED)
    sweeps = Sweeps(engine, ranges_of((2, 2, 2)))
    found = tiny.run(engine, {"swept": prompt}, SCORED)["swept"]
    assert sweeps.begun
    assert scores(found) == scores(expected)
    assert found.updates[-1].metrics.cached_tokens >= 64


def test_rows_that_stay_behind_are_not_computed_in_later_layers() -> None:
    """In layers whose rows see only themselves, the last row cannot tell."""
    windows, keep = (None, None, 1, 1), SpanSet.of([Span(3, 7), Span(20, 61), Span(149, 150)])
    expected = tiny.run(tiny.make_engine(windows), {"swept": PROMPTS["swept"]}, SCORED)["swept"]
    engine = tiny.make_engine(windows, step_tokens=16)
    sweeps = Sweeps(engine, ranges_of((2, 2)), lambda number, positions: keep)
    found = tiny.run(engine, {"swept": PROMPTS["swept"]}, SCORED)["swept"]
    assert scores(found) == scores(expected)
    later = [work.spans for work in sweeps.work if work.layers.start == 2]
    assert SpanSet.of([span for spans in later for span in spans]) == keep


def test_the_last_row_must_go_on() -> None:
    engine = tiny.make_engine(MODELS[0])
    Sweeps(engine, ranges_of((3, 3)), lambda number, positions: positions.first(10))
    done = tiny.run(engine, PROMPTS, SCORED)
    assert done["swept"].reasons[0] == "error"
    assert done["other"].reasons[0] == "length"
    assert engine.ledger.held_pages == 0


@pytest.mark.parametrize("after", range(12))
def test_it_may_be_aborted_at_any_time(after: int) -> None:
    engine = tiny.make_engine(MODELS[1], step_tokens=40)
    sweeps = Sweeps(engine, ranges_of((2, 2, 2)))
    for name, prompt in PROMPTS.items():
        engine.submit(name, prompt, SCORED)
    for _ in range(after):
        engine.step()
    if 1 <= after <= 10:
        assert sweeps.begun[0].layerwise is not None
        hidden = next(iter(sweeps.begun[0].layerwise.holdings()))
        assert hidden in list(sweeps.begun[0].holdings())
    engine.abort("swept")
    engine.check()
    tiny.drain(engine, ["other"])
    assert engine.ledger.held_pages == 0


def test_it_may_be_preempted_and_begins_anew() -> None:
    """The other's answer grows until the swept prompt, which came later, has to give way."""
    prompts = {"other": tiny.random_prompt(30, 5), "swept": tiny.random_prompt(120, 6)}
    long = SamplingParams(temperature=0.0, max_tokens=200, ignore_eos=True, logprobs=3)
    expected = tiny.run(tiny.make_engine(MODELS[0]), {"swept": prompts["swept"]}, SCORED)["swept"]
    engine = tiny.make_engine(MODELS[0], kv_bytes=550_000, step_tokens=4)
    sweeps = Sweeps(engine, ranges_of((1,) * 6))
    engine.submit("other", prompts["other"], long)
    engine.submit("swept", prompts["swept"], SCORED)
    done = tiny.drain(engine, ["other", "swept"])
    assert engine.preempt.preemptions >= 1
    assert len(sweeps.begun) >= 2
    assert len(done["other"].tokens[0]) == 200
    assert scores(done["swept"]) == scores(expected)
    assert engine.ledger.held_pages == 0


def test_preempting_gives_the_hidden_states_back() -> None:
    engine = tiny.make_engine(MODELS[0], step_tokens=16)
    sweeps = Sweeps(engine, ranges_of((3, 3)))
    engine.submit("swept", PROMPTS["swept"], SCORED)
    for _ in range(4):
        engine.step()
    sequence, plan = sweeps.begun[0], StepPlan(64)
    engine.preempt._preempt(sequence, engine.scheduler.queues, plan)
    engine.check()
    assert (sequence.status, sequence.layerwise, engine.ledger.held_pages) == (Status.WAITING, None, 0)
    expected = tiny.run(tiny.make_engine(MODELS[0]), {"swept": PROMPTS["swept"]}, SCORED)["swept"]
    assert scores(tiny.drain(engine, ["swept"])["swept"]) == scores(expected)


def test_what_fails_in_a_pass_ends_that_request_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = tiny.make_engine(MODELS[0], step_tokens=40)
    Sweeps(engine, ranges_of((3, 3)))
    monkeypatch.setattr(Sweep, "took", lambda self, done, x_TC: 1 / 0)
    done = tiny.run(engine, PROMPTS, SCORED)
    assert (done["swept"].reasons[0], done["other"].reasons[0]) == ("error", "length")
    assert engine.ledger.held_pages == 0


class TestBudgets:
    def test_hidden_states_count_as_held_kv(self) -> None:
        engine = tiny.make_engine(MODELS[0], step_tokens=16)
        sweeps = Sweeps(engine, ranges_of((3, 3)))
        engine.submit("swept", PROMPTS["swept"], SCORED)
        engine.step()
        kv = sweeps.begun[0].kv
        assert engine.ledger.held_bytes - kv.held_bytes >= 150 * 4 * engine.model.width

    def test_without_room_nothing_is_taken(self) -> None:
        engine = tiny.make_engine(MODELS[0], kv_bytes=1_000_000)
        used = engine.ledger.arena.used_bytes
        assert Carried.take(engine.ledger, "a", 100_000, engine.model.width) is None
        assert Carried.take(engine.ledger, "a", 1, 10_000) is None, "larger than a slab"
        assert engine.ledger.arena.used_bytes == used

    def test_a_row_through_a_share_of_the_layers_takes_that_share(self) -> None:
        cost = PrefillCost(0.0, 1e-3, 1e-6)
        allowed, missing = Allowance(seconds=0.05, least_rows=8, cost=cost), SpanSet.full(1000)
        all_layers, quarter = allowed.rows(missing), allowed.rows(missing, 0.25)
        assert quarter == pytest.approx(4 * all_layers, rel=0.1)
        spans = missing.first(quarter)
        allowed.use(spans, share=0.25)
        assert 0 <= allowed.seconds < 1e-3
        allowed.use(spans, sign=-1, share=0.25)
        assert (allowed.seconds, allowed.least_rows) == (pytest.approx(0.05), 8)

    def test_passes_use_the_step_s_rows(self) -> None:
        engine = tiny.make_engine(MODELS[0], step_tokens=64)
        Sweeps(engine, ranges_of((2, 4)))
        engine.submit("swept", PROMPTS["swept"], SCORED)
        engine.step()
        plan = engine.scheduler.schedule()
        [work] = plan.passes.values()
        assert (len(work.spans), plan.rows_left) == (64, 64 - 22)
        plan.discard(next(iter(plan.passes)))
        assert (plan.passes, plan.rows_left) == ({}, 64)


@pytest.mark.parametrize("ranges", [[range(2), range(3, 6)], [range(7)], [range(3), range(3, 3), range(3, 6)], []])
def test_ranges_are_all_layers_one_after_another(ranges: list[range]) -> None:
    engine = tiny.make_engine(MODELS[0])
    carried = Carried.take(engine.ledger, "a", 10, engine.model.width)
    with pytest.raises(InternalError, match="layers"):
        Sweep(None, engine.model.kv_map, ranges, SpanSet.full(10), carried)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 90), st.integers(1, 9), st.data())
def test_hidden_states_come_back_as_they_were(rows: int, width: int, data: st.DataObject) -> None:
    ledger = Ledger(Arena(2**20, 2**16), Index(1), LeastRecentlyUsed())
    carried = Carried.take(ledger, "a", rows, width)
    x_TC = np.random.default_rng(rows).standard_normal((rows, width)).astype(np.float32)
    cuts = sorted({0, rows, *data.draw(st.lists(st.integers(0, rows), max_size=4))})
    for first, stop in itertools.pairwise(cuts):
        carried.put(first, x_TC[first:stop])
    assert np.array_equal(carried.get(0, rows), x_TC)
    kept = np.array(sorted(data.draw(st.sets(st.integers(0, rows - 1)))), np.int64)
    carried.keep(kept)
    assert np.array_equal(carried.get(0, len(kept)), x_TC[kept])
    ledger.check(carried.holdings())
    carried.release()
    ledger.check([])
    assert ledger.arena.used_bytes == 0
