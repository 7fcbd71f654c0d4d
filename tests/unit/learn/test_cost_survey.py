"""Measuring what prefill and the tiers cost, on a simulated clock and on what this machine has."""

from __future__ import annotations

import dataclasses
import random
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import tiny
from kvloom.engine.cost_profile import MeasuredOn
from kvloom.engine.engine import Engine
from kvloom.errors import DataFileError, EvalError
from kvloom.eval.single import SingleSequence
from kvloom.learn.cost import BRIEF, FULL, learn_costs, measure_prefill, tokens_of
from kvloom.learn.prefill_fit import fit_prefill
from kvloom.learn.tiers import measure_tiers, tier_cost
from kvloom.policy.cost import PrefillCost, position_sum
from kvloom.segment import Span, SpanSet
from timed import Clock, TimedModel

COST = PrefillCost(start_s=2e-3, token_s=1e-3, position_s=4e-6)
SURVEY = dataclasses.replace(FULL, rounds=2, tier_bytes=2**20)


class Machine:
    """Takes what ``seconds`` says, on a clock of its own."""

    def __init__(self, seconds: Callable[[SpanSet], float]) -> None:
        self.clock, self.seconds = Clock(), seconds
        self.computed: list[SpanSet] = []

    def compute_again(self, spans: SpanSet) -> None:
        self.clock.now_s += self.seconds(spans)
        self.computed.append(spans)


def exact_s(spans: SpanSet) -> float:
    return COST.step(len(spans), position_sum(spans))


def timed_engine() -> tuple[Engine, Clock]:
    clock = Clock()
    return tiny.make_engine(model=TimedModel(COST, clock), clock=clock), clock


def test_every_step_is_measured_as_often_as_asked_and_in_changing_order() -> None:
    machine, steps, told = Machine(exact_s), FULL.steps(8192, 512), []
    measured = measure_prefill(machine, steps, 3, machine.clock, told.append)
    assert [step.spans for step in measured] == steps
    assert [step.seconds for step in measured] == pytest.approx([exact_s(spans) for spans in steps])
    rounds = [machine.computed[n : n + len(steps)] for n in range(0, 3 * len(steps), len(steps))]
    assert all(sorted(each, key=repr) == sorted(steps, key=repr) for each in rounds)
    assert rounds[0] != rounds[1] != rounds[2]
    assert sum(told) == 3 * sum(map(len, steps))


def test_what_happens_now_and_then_is_not_measured() -> None:
    """One in ten is fifty times as slow: medians do not see it."""
    rng = random.Random(1)
    machine = Machine(lambda spans: exact_s(spans) * (50 if rng.random() < 0.1 else 1))
    found = fit_prefill(measure_prefill(machine, FULL.steps(8192, 512), 5, machine.clock))
    assert dataclasses.astuple(found) == pytest.approx(dataclasses.astuple(COST), rel=0.05)


def test_what_takes_no_time_by_the_clock_can_still_be_fitted_to() -> None:
    machine = Machine(lambda spans: 0.0)
    assert all(step.seconds > 0 for step in measure_prefill(machine, BRIEF.steps(2048, 512), 1, machine.clock))


def test_the_cost_of_a_model_is_found(tmp_path: Path) -> None:
    engine, clock = timed_engine()
    told: list[int] = []
    found = learn_costs(engine, SURVEY, tmp_path, clock, told.append)
    assert dataclasses.astuple(found.prefill) == pytest.approx(dataclasses.astuple(COST), rel=1e-3)
    assert found.fit.r2 > 0.9999
    assert found.fit.error < 1e-4
    assert found.measured_on == MeasuredOn.here(engine.model.weights_id, engine.config)
    assert found.longest == engine.max_len
    assert found.steps == len(SURVEY.steps(engine.max_len, 64))
    assert sum(told) == tokens_of(engine, SURVEY)
    assert list(tmp_path.iterdir()) == []
    assert engine.ledger.held_bytes == 0, "the engine's own memory is not touched"


def test_a_context_that_is_too_short_is_refused(tmp_path: Path) -> None:
    engine = tiny.make_engine(max_model_len=4)
    with pytest.raises(EvalError, match="too few to fit costs to"):
        learn_costs(engine, SURVEY, tmp_path, time.perf_counter)


def test_computing_again_changes_nothing() -> None:
    """Holes and ends, whatever is there: what comes next is the same, bit for bit."""
    tokens = tiny.random_prompt(100, 3)

    def after(*spans: SpanSet) -> list[float]:
        sequence = SingleSequence(tiny.make_engine((None, 24)), 110)
        sequence.mark()
        sequence.append(tokens)
        for each in spans:
            sequence.compute_again(each)
        sequence.check()
        return [float(x) for x in sequence.append([5])]

    hole = SpanSet((Span(16, 32), Span(90, 100)))
    assert after() == after(hole) == after(SpanSet.full(64), hole)


class TestTiers:
    def test_bandwidth_is_that_of_what_is_larger_than_a_page(self) -> None:
        cost = tier_cost([1e-3, 1e-3, 9.0], [0.501, 0.501, 0.6], 10**9 + 4096)
        assert cost.latency_s == 1e-3
        assert cost.bytes_per_s == pytest.approx(2e9)
        assert cost.seconds(10**9) == pytest.approx(0.501)

    def test_this_machine_has_some(self, tmp_path: Path) -> None:
        found = measure_tiers(tmp_path / "new", time.perf_counter, 2**20, 3)
        for tier in (found.copy, found.write, found.read):
            assert 1e3 < tier.bytes_per_s < np.inf
            assert 0 < tier.latency_s < 10
        assert list((tmp_path / "new").iterdir()) == []

    def test_no_directory_is_said(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("x")
        with pytest.raises(DataFileError, match="no disk to measure") as caught:
            measure_tiers(tmp_path / "file", time.perf_counter, 2**16, 1)
        assert caught.value.path == tmp_path / "file"
        assert caught.value.hint is not None
