"""What prompts may add to steps beside streams: what it learns, and that nobody starves or changes by it."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import quantiles

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny
from kvloom.engine.params import SamplingParams
from kvloom.engine.scheduler.prefill_budget import LEAST_ROWS, PrefillBudget
from kvloom.engine.scheduler.quiet_steps import QuietSteps
from kvloom.policy.cost import PrefillCost, position_sum
from kvloom.policy.cost_estimate import CostEstimate
from kvloom.segment import Span, SpanSet
from timed import Clock, TimedModel

GREEDY = SamplingParams(temperature=0.0, max_tokens=40, ignore_eos=True)
SHORT = SamplingParams(temperature=0.0, max_tokens=8, ignore_eos=True)
COST = PrefillCost(start_s=4e-3, token_s=7e-4, position_s=3e-7)
ROUGHLY = PrefillCost(start_s=0.0, token_s=1e-3, position_s=1e-7)
"""What the estimate begins with: wrong by the half."""
QUIET_S, STREAMS, STEP = 0.05, 16, 512


@dataclass
class Machine:
    """Steps take ``QUIET_S`` and what ``cost`` says, with noise, and now and then half as much again."""

    cost: PrefillCost = COST
    noise: float = 0.05
    slowness: float = 1.0
    rng: random.Random = field(default_factory=lambda: random.Random(0))

    def step(self, new: int, positions: int) -> float:
        held_up = 1.5 if self.noise and self.rng.random() < 0.003 else 1.0
        seconds = QUIET_S + (self.cost.step(new, positions) if new else 0.0)
        return self.slowness * seconds * math.exp(self.rng.gauss(0, self.noise)) * held_up


def made(latency_s: float | None = None, slowdown: float = 2.0, cost: PrefillCost | None = ROUGHLY) -> PrefillBudget:
    return PrefillBudget(slowdown, latency_s, CostEstimate(cost))


@dataclass
class Step:
    rows: int
    seconds: float


def quiet(budget: PrefillBudget, machine: Machine, count: int) -> list[Step]:
    found = [Step(0, machine.step(0, 0)) for _ in range(count)]
    for each in found:
        budget.took(STREAMS, 0, 0, each.seconds)
    return found


def computed(budget: PrefillBudget, machine: Machine, missing: SpanSet, steps: int = 10_000) -> list[Step]:
    """The steps that compute a prompt beside streams."""
    found: list[Step] = []
    while missing and len(found) < steps:
        spans = missing.first(min(STEP, budget.allowance(STREAMS, 1).rows(missing)))
        missing = missing - spans
        found.append(Step(len(spans), machine.step(len(spans), position_sum(spans))))
        budget.took(STREAMS, len(spans), position_sum(spans), found[-1].seconds)
    return found


def traffic(budget: PrefillBudget, machine: Machine, prompts: int = 12, length: int = 4096) -> list[Step]:
    """Long prompts, one after another, with pauses."""
    found: list[Step] = []
    for _ in range(prompts):
        found += quiet(budget, machine, 4) + computed(budget, machine, SpanSet.full(length))
    return found


def p99(steps: list[Step]) -> float:
    return quantiles([each.seconds for each in steps], n=100, method="inclusive")[98]


class TestLearning:
    @given(st.floats(1e-5, 1e-3), st.floats(1.5, 4.0))
    @settings(deadline=None)
    def test_the_rows_are_as_many_as_fit(self, row_s: float, slowdown: float) -> None:
        machine, budget = Machine(PrefillCost(0.0, row_s, 0.0), noise=0.0), made(slowdown=slowdown)
        quiet(budget, machine, 1)
        steps = [each for each in computed(budget, machine, SpanSet.full(10**6), steps=200) if each.rows]
        limit_s, last = slowdown * QUIET_S, steps[-1]
        assert last.rows == LEAST_ROWS or last.seconds <= limit_s
        assert last.rows == STEP or last.seconds + row_s > limit_s / math.exp(0.3)

    @pytest.mark.parametrize("seed", range(4))
    @pytest.mark.parametrize("latency_s", [0.1, 0.15, 0.3])
    def test_p99_is_within_the_latency_and_throughput_near_that_without_limits(
        self, latency_s: float, seed: int
    ) -> None:
        """For the same work: streams that need as many steps as it takes, and the prompts beside them."""
        machine = Machine(rng=random.Random(seed))
        budget = made(latency_s)
        traffic(budget, machine, prompts=2)
        limited = traffic(budget, machine)
        unlimited = traffic(made(slowdown=math.inf), Machine(rng=random.Random(seed)))
        assert p99(limited) <= latency_s < p99(unlimited)
        rest_s = QUIET_S * (len(limited) - len(unlimited))
        seconds, free_s = (sum(each.seconds for each in steps) for steps in (limited, unlimited))
        assert seconds <= (free_s + rest_s) / (0.9 if latency_s > 0.1 else 0.8)

    def test_a_multiple_of_a_quiet_step_is_kept_too(self) -> None:
        machine, budget = Machine(), made(slowdown=3.0)
        traffic(budget, machine, prompts=2)
        assert p99(traffic(budget, machine)) <= 3.1 * QUIET_S

    @pytest.mark.parametrize("cost", [ROUGHLY, None], ids=["something", "nothing"])
    def test_with_little_known_it_takes_a_few_steps(self, cost: PrefillCost | None) -> None:
        machine, budget = Machine(), made(0.15, cost=cost)
        quiet(budget, machine, 1)
        steps = computed(budget, machine, SpanSet.full(8192), steps=12)
        assert all(each.seconds <= 1.05 * 0.15 for each in steps)
        assert all(each.rows > 8 * LEAST_ROWS for each in steps[6:])

    def test_a_machine_that_becomes_twice_as_slow_is_followed_within_a_few_steps(self) -> None:
        machine, budget = Machine(), made(0.25)
        traffic(budget, machine, prompts=3)
        before = computed(budget, machine, SpanSet.full(2048))
        machine.slowness = 2.0
        after = computed(budget, machine, SpanSet.full(4096))
        assert after[0].seconds > 0.25
        assert all(each.seconds <= 0.25 for each in after[4:20])
        assert sum(each.rows > 3 * LEAST_ROWS for each in after[4:20]) >= 12
        assert after[10].rows < before[3].rows / 2

    def test_single_steps_that_are_held_up_change_little(self) -> None:
        machine, budget = Machine(), made(0.15)
        traffic(budget, machine, prompts=3)
        rows = budget.allowance(STREAMS, 1).rows(SpanSet.full(4096))
        budget.took(STREAMS, rows, position_sum(SpanSet.full(rows)), 100 * 0.15)
        assert budget.allowance(STREAMS, 1).rows(SpanSet.full(4096)) > rows / 3
        traffic(budget, machine, prompts=1, length=1024)
        assert budget.allowance(STREAMS, 1).rows(SpanSet.full(4096)) > 0.8 * rows

    def test_tokens_that_come_late_in_a_prompt_are_fewer(self) -> None:
        machine, budget = Machine(), made(0.15)
        traffic(budget, machine, length=8192, prompts=3)
        allowed = budget.allowance(STREAMS, 1)
        first, last = (allowed.rows(SpanSet((Span(start, start + 4096),))) for start in (0, 8000))
        assert last < first / 2
        assert COST.block(8000, last) == pytest.approx(COST.block(0, first), rel=0.2)

    def test_holes_are_crossed_and_cost_what_they_are_far_from_the_beginning(self) -> None:
        budget = made(0.15)
        traffic(budget, Machine(), prompts=3)
        allowed, holes = budget.allowance(STREAMS, 1), SpanSet.of([Span(0, 16), Span(4000, 4096), Span(8000, 8192)])
        rows = allowed.rows(holes)
        assert rows > 16
        assert allowed.rows(SpanSet.full(8192)) > rows
        assert allowed.cost is not None
        assert (
            allowed.cost.computing(holes.first(rows)) <= allowed.seconds < allowed.cost.computing(holes.first(rows + 1))
        )


class TestShares:
    def test_where_prompts_outnumber_streams_they_get_more(self) -> None:
        budget = made(slowdown=2.0)
        quiet(budget, Machine(), 4)
        one, many = budget.allowance(4, 1), budget.allowance(4, 40)
        assert many.seconds == pytest.approx(10 * one.seconds)
        assert many.least_rows == 10 * one.least_rows

    def test_but_a_latency_is_kept_whoever_waits(self) -> None:
        budget = made(0.15)
        quiet(budget, Machine(), 4)
        assert budget.allowance(4, 40) == budget.allowance(4, 1)

    def test_without_time_there_is_the_least(self) -> None:
        budget = made(QUIET_S / 2)
        quiet(budget, Machine(), 4)
        allowed = budget.allowance(STREAMS, 9)
        assert allowed.rows(SpanSet.full(100)) == LEAST_ROWS
        allowed.use(SpanSet.full(6))
        assert allowed.rows(SpanSet.full(100)) == LEAST_ROWS - 6
        allowed.use(SpanSet.full(6), -1)
        assert allowed.rows(SpanSet.full(3)) == 3

    def test_without_a_limit_there_is_all(self) -> None:
        assert made(slowdown=math.inf).allowance(4, 1).rows(SpanSet.full(10**6)) == 10**6


class TestQuietSteps:
    def test_where_all_steps_have_prompts_every_64th_is_quiet(self) -> None:
        budget, machine = made(0.12), Machine()
        quiet(budget, machine, 1)
        rows = [each.rows for each in computed(budget, machine, SpanSet.full(10**6), steps=300)]
        zeros = [n for n, each in enumerate(rows) if not each]
        assert zeros[0] == 64
        assert all(later - earlier == 65 for earlier, later in pairwise(zeros))

    def test_one_that_is_asked_for_and_does_not_come_is_not_waited_for(self) -> None:
        steps = QuietSteps()
        assert [steps.due(), steps.due()] == [True, False]

    def test_the_longer_ago_the_last_one_was_the_more_a_new_one_counts(self) -> None:
        steps = QuietSteps()
        steps.took(4, 0.1)
        steps.took(4, 0.14)
        assert steps.expected(4) == pytest.approx(0.11)
        for _ in range(60):
            steps.passed()
        steps.took(4, 0.15)
        assert steps.expected(5) == pytest.approx(0.15)
        steps.took(4, 100.0)
        assert steps.expected(1) == pytest.approx(0.15 * 1.25)


def run_with_late_prompt(
    length: int, slowdown: float = 2.0, latency_s: float | None = None, streams: int = 2, late: int = 1
) -> tuple[tiny.Engine, dict[str, list[int]]]:
    """Streams run; then long prompts come. Tokens by request."""
    clock = Clock()
    model = TimedModel(PrefillCost(0.1, 0.01, 0.0), clock)
    engine = tiny.make_engine(
        step_tokens=64, max_decode_slowdown=slowdown, max_token_latency_s=latency_s, model=model, clock=clock
    )
    tokens: dict[str, list[int]] = {f"stream{n}": [] for n in range(streams)} | {f"long{n}": [] for n in range(late)}
    for n in range(streams):
        engine.submit(f"stream{n}", tiny.random_prompt(9, n), GREEDY)
    while engine.has_work:
        if len(tokens["stream0"]) == 6 and "long0" not in engine.requests:
            for n in range(late):
                engine.submit(f"long{n}", tiny.random_prompt(length, 99 + n), SHORT)
        for update in engine.step():
            tokens[update.request_id] += update.deltas[0].token_ids
        engine.check()
    return engine, tokens


class TestEngine:
    @settings(max_examples=8, deadline=None)
    @given(st.integers(20, 120), st.sampled_from([(1.0, None), (2.0, None), (math.inf, None), (2.0, 0.05), (2.0, 0.4)]))
    def test_bits_do_not_depend_on_the_budget(self, length: int, limit: tuple[float, float | None]) -> None:
        _, tokens = run_with_late_prompt(length, *limit)
        alone = {"long0": tiny.random_prompt(length, 99), "stream1": tiny.random_prompt(9, 1)}
        for name, prompt in alone.items():
            expected = tiny.run(tiny.make_engine(), {name: prompt}, GREEDY)[name].tokens[0]
            assert tokens[name] == expected[: len(tokens[name])]

    def test_a_late_prompt_comes_in_small_steps_and_streams_go_on_in_every_one(self) -> None:
        engine, _ = run_with_late_prompt(200)
        rows = engine.model.rows
        assert rows[:6] == [18, 2, 2, 2, 2, 2]
        during = rows[6:23]
        assert all(2 + LEAST_ROWS <= each < 2 + 2 * LEAST_ROWS for each in during)
        assert all(0.1 + 0.01 * each <= 2 * 0.12 for each in during), "twice the time of a step of two rows"

    def test_with_streams_at_their_limit_one_prompt_is_started_and_computed_a_little_at_a_time(self) -> None:
        engine, tokens = run_with_late_prompt(40, latency_s=0.05, late=3)
        rows = engine.model.rows
        assert rows[6:11] == [2 + LEAST_ROWS] * 5, "of all three"
        assert max(rows[6:]) <= 2 + 3 + LEAST_ROWS
        assert all(len(found) == 8 for name, found in tokens.items() if name.startswith("long"))

    def test_with_an_infinite_limit_prompts_are_served_as_they_came(self) -> None:
        engine, _ = run_with_late_prompt(100, slowdown=math.inf, late=2)
        assert engine.model.rows[6:10] == [64, 64, 64, 18]

    def test_a_latency_holds_beside_the_first_of_requests_that_arrive_together(self) -> None:
        """Once a step without prompts is known."""
        clock = Clock()
        model = TimedModel(PrefillCost(0.1, 0.01, 0.0), clock)
        engine = tiny.make_engine(step_tokens=64, max_token_latency_s=0.3, model=model, clock=clock)
        tiny.run(engine, {"warm": tiny.random_prompt(50, 7)}, SHORT)
        before = len(model.rows)
        tiny.run(engine, {f"r{n}": tiny.random_prompt(100, n) for n in range(4)}, SHORT)
        first, second, *rest = model.rows[before:]
        assert (first, second) == (64, 64)
        assert all(0.1 + 0.01 * each <= 0.31 for each in rest)

    def test_a_lone_prompt_gets_whole_steps(self) -> None:
        engine = tiny.make_engine(step_tokens=64)
        tiny.run(engine, {"a": tiny.random_prompt(300, 1)}, SHORT)
        assert engine.model.rows[:5] == [64, 64, 64, 64, 44]

    def test_prompts_that_arrive_together_get_whole_steps(self) -> None:
        engine = tiny.make_engine(step_tokens=64)
        tiny.run(engine, {f"r{n}": tiny.random_prompt(100, n) for n in range(4)}, SHORT)
        assert engine.model.rows[:6] == [64] * 6
