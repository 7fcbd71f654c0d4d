"""The claim about the simulator, on a tiny model that takes known times: it holds, and fails with wrong costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from bench.claims.simulator import LOAD, SkippingClock, arriving, bursts, busy_s, check_of, room, served, simulated
from kvloom.attend.base import Attend
from kvloom.attend.observe import NOBODY, Observers
from kvloom.attend.plan import Plan
from kvloom.engine.engine import Engine
from kvloom.model.base import Indices, Scores
from kvloom.policy.cost import PrefillCost
from kvloom.simulate.clock import SimulatedClock
from kvloom.simulate.step_cost import StepCost
from kvloom.simulate.traces.multi_turn import MultiTurn
from tiny import VOCAB, TinyModel, make_engine

COST = StepCost(PrefillCost(2e-3, 1e-3, 1e-5), PrefillCost(5e-3, 1e-4, 1e-6))
TRACE = MultiTurn(sessions=5, shared_tokens=32, lengths=(100, 300), answer_tokens=6).trace(1)


class TimedModel(TinyModel):
    spend: Callable[[Plan], None]

    def scores(
        self, tokens_T: Indices, plan: Plan, attend: Attend, rows_R: Indices, observers: Observers = NOBODY
    ) -> Scores:
        self.spend(plan)
        return super().scores(tokens_T, plan, attend, rows_R, observers)


def timed_engine(clock: SimulatedClock, cost: StepCost) -> Engine:
    model = TimedModel()
    model.spend = lambda plan: clock.advance(cost.of(plan))
    return make_engine(model=model, kv_bytes="600KB", clock=clock)


@pytest.mark.parametrize(("slower", "holds"), [(1.0, True), (1.5, False)])
def test_times_are_those_of_an_engine_that_costs_as_much(slower: float, holds: bool) -> None:
    clock, asked = SimulatedClock(), arriving(TRACE, COST, VOCAB)
    engine = timed_engine(clock, COST)
    real = served(engine, asked, clock.advance)
    wrong = StepCost(replace(COST.prefill, token_s=COST.prefill.token_s * slower), COST.decode)
    check = check_of("x", real, simulated(engine, asked, wrong))
    assert check.holds == holds
    if holds:
        assert check.value == pytest.approx(1.0, abs=0.02)
        assert 0 < real.cached_tokens < real.input_tokens


def test_requests_keep_a_machine_busy_for_part_of_the_time() -> None:
    asked = arriving(TRACE, COST, VOCAB)
    assert busy_s(TRACE, COST) == pytest.approx(LOAD * asked[-1].arrival_s)
    assert [each.input_length for each in asked] == [request.input_tokens for request in TRACE.requests]


def test_waiting_takes_no_time_and_counts() -> None:
    clock = SkippingClock()
    before = clock()
    clock.skip(1000.0)
    assert 1000.0 <= clock() - before < 1060.0


def test_bursts_share_a_beginning() -> None:
    trace = bursts(3, 2, 4, (300, 400), 10)
    assert [request.arrival_s for request in trace.requests] == [0.0] * 4 + [60.0] * 4
    sharing = [request for request in trace.requests if request.blocks[:16] == tuple(range(16))]
    assert len(sharing) == 4
    others = [number for request in trace.requests for number in request.blocks if number >= 16]
    assert len(set(others)) == len(others)
    assert all(len(request.blocks) == -(-request.tokens // 16) for request in trace.requests)


def test_there_is_room_for_part_of_a_trace() -> None:
    engine = make_engine()
    assert engine.layout.bytes_for(2 * 16 * TRACE.longest) <= room(engine, TRACE)
    blocks = {number for request in TRACE.requests for number in request.blocks}
    assert room(engine, TRACE) < engine.layout.bytes_for(16 * len(blocks))
