"""An estimate of what prefill costs that steps correct: it follows the machine, and no single step leads it astray."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvloom.policy.cost import PrefillCost, position_sum
from kvloom.policy.cost_estimate import CostEstimate
from kvloom.segment import Span, SpanSet

COST = PrefillCost(start_s=4e-3, token_s=7e-4, position_s=3e-7)

costs = st.builds(
    PrefillCost,
    start_s=st.sampled_from([0.0, 1e-3, 2e-2]),
    token_s=st.floats(1e-5, 1e-2),
    position_s=st.sampled_from([0.0, 1e-9, 1e-7, 1e-6]),
)
seeds = st.integers(0, 2**32)


def steps(seed: int, count: int) -> list[tuple[int, int]]:
    """Those of prompts of up to 8,000 tokens, 512 at a time."""
    rng, found = random.Random(seed), []
    while len(found) < count:
        length = rng.randint(60, 8000)
        for start in range(0, length, 512):
            span = Span(start, min(start + 512, length))
            found.append((len(span), position_sum(SpanSet((span,)))))
    return found[:count]


def learn(estimate: CostEstimate, cost: PrefillCost, seed: int, count: int, noise: float = 0.05) -> None:
    rng = random.Random(seed)
    for new, positions in steps(seed, count):
        estimate.took(new, positions, cost.step(new, positions) * math.exp(rng.gauss(0, noise)))


def predictions(estimate: CostEstimate) -> list[float]:
    """Of whole steps: what a few tokens take is mostly noise."""
    assert estimate.cost is not None
    return [estimate.cost.step(new, positions) for new, positions in steps(7, 100) if new == 512]


def error(estimate: CostEstimate, cost: PrefillCost) -> float:
    """The largest, as a ratio."""
    wanted = [cost.step(new, positions) for new, positions in steps(7, 100) if new == 512]
    return max(abs(math.log(said / right)) for said, right in zip(predictions(estimate), wanted, strict=True))


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_with_nothing_known_it_learns_a_machine_of_any_speed(scale: float) -> None:
    cost = PrefillCost(scale * COST.start_s, scale * COST.token_s, scale * COST.position_s)
    estimate = CostEstimate()
    assert estimate.cost is None
    learn(estimate, cost, seed=1, count=100)
    assert error(estimate, cost) < 0.1
    assert estimate.steps == 100


@given(seeds, st.floats(0.2, 5.0))
@settings(max_examples=40, deadline=None)
def test_it_follows_a_machine_whose_speed_changes(seed: int, times: float) -> None:
    estimate = CostEstimate(COST)
    learn(estimate, COST, seed, 100)
    slower = PrefillCost(times * COST.start_s, times * COST.token_s, times * COST.position_s)
    learn(estimate, slower, seed + 1, 250)
    assert error(estimate, slower) < 0.15


@given(seeds)
@settings(max_examples=40, deadline=None)
def test_it_learns_another_shape(seed: int) -> None:
    estimate = CostEstimate(PrefillCost(0.0, 1e-3, 1e-9))
    learn(estimate, COST, seed, 200)
    assert error(estimate, COST) < 0.15


@given(costs | st.none(), st.lists(st.tuples(st.integers(1, 4096), st.floats(0, 1e5), st.floats(1e-9, 1e6))))
@settings(deadline=None)
def test_no_coefficient_is_ever_negative(begins: PrefillCost | None, taken: list[tuple[int, float, float]]) -> None:
    estimate = CostEstimate(begins)
    for new, position, seconds in taken:
        estimate.took(new, int(new * position), seconds)
        cost = estimate.cost
        assert cost is not None
        assert min(cost.start_s, cost.position_s) >= 0
        assert cost.token_s > 0, "a step of one token at position 0 takes time"
        assert all(map(math.isfinite, (cost.start_s, cost.token_s, cost.position_s)))


@given(seeds, st.sampled_from([100.0, 0.01]))
@settings(max_examples=60, deadline=None)
def test_one_step_that_is_a_hundred_times_off_changes_little(seed: int, times: float) -> None:
    estimate = CostEstimate(COST)
    learn(estimate, COST, seed, 60)
    before = predictions(estimate)
    new, positions = next(step for step in steps(seed + 1, 100) if step[0] == 512)
    estimate.took(new, positions, times * COST.step(new, positions))
    assert max(abs(after / said - 1) for after, said in zip(predictions(estimate), before, strict=True)) < 0.15


def test_what_took_no_time_or_computed_nothing_is_not_learned_from() -> None:
    estimate = CostEstimate(COST)
    for new, seconds in ((0, 1.0), (5, 0.0), (5, -1.0), (5, math.inf), (5, math.nan)):
        estimate.took(new, 10, seconds)
    assert (estimate.cost, estimate.steps) == (COST, 0)


class TestCost:
    @given(costs, st.lists(st.tuples(st.integers(0, 50), st.integers(1, 20)), min_size=1, max_size=5))
    def test_positions_add_up_one_by_one(self, cost: PrefillCost, gaps: list[tuple[int, int]]) -> None:
        spans, reached = [], 0
        for gap, length in gaps:
            spans.append(Span(reached + gap, reached + gap + length))
            reached += gap + length
        computed = SpanSet.of(spans)
        assert position_sum(computed) == sum(position for span in computed for position in span.positions())
        blocks = sum(cost.block(span.start, len(span)) for span in computed)
        assert cost.step(len(computed), position_sum(computed)) == pytest.approx(cost.start_s + blocks)

    def test_a_token_costs_twice_as_much_at_the_doubling_position(self) -> None:
        cost = PrefillCost(0.0, 1e-3, 1e-6)
        assert cost.block(round(cost.doubling_position), 1) == pytest.approx(2 * cost.block(0, 1))
        assert PrefillCost(0.0, 1e-3, 0.0).doubling_position == math.inf
