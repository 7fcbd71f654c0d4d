"""Fits of what steps took: made costs are found again, whatever a few steps say."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvloom.errors import EvalError
from kvloom.learn.cost import BRIEF, FULL, Survey
from kvloom.learn.prefill_fit import LEAST_STEPS, Step, fit_paper, fit_prefill, quality
from kvloom.policy.cost import PrefillCost, position_sum
from kvloom.segment import SpanSet

SPANS = FULL.steps(8192, 512)

costs = st.builds(
    PrefillCost,
    start_s=st.sampled_from([0.0, 1e-4, 1e-2]),
    token_s=st.floats(1e-5, 1e-2),
    position_s=st.sampled_from([0.0, 1e-9, 1e-7, 1e-6]),
)


def seconds(cost: PrefillCost, spans: SpanSet) -> float:
    return cost.step(len(spans), position_sum(spans))


def made(cost: PrefillCost) -> list[Step]:
    return [Step(spans, seconds(cost, spans)) for spans in SPANS]


def close(found: PrefillCost, wanted: PrefillCost, by: float) -> bool:
    """Over all the steps, and no coefficient is negative."""
    assert min(found.start_s, found.token_s, found.position_s) >= 0
    return all(seconds(found, spans) == pytest.approx(seconds(wanted, spans), rel=by) for spans in SPANS)


@given(costs)
@settings(max_examples=40, deadline=None)
def test_made_costs_are_found_again(cost: PrefillCost) -> None:
    found = fit_prefill(made(cost))
    assert close(found, cost, 1e-6)
    assert found.token_s == pytest.approx(cost.token_s, rel=1e-5)
    assert found.position_s == pytest.approx(cost.position_s, rel=1e-5, abs=1e-12)
    assert quality(lambda spans: seconds(found, spans), made(cost)).r2 == pytest.approx(1)


@given(costs, st.integers(0, 2**32), st.sampled_from([0.1, 10.0, 100.0]))
@settings(max_examples=40, deadline=None)
def test_a_tenth_of_the_steps_may_be_far_off(cost: PrefillCost, seed: int, times: float) -> None:
    rng, steps = random.Random(seed), made(cost)
    for n in rng.sample(range(len(steps)), len(steps) // 10):
        steps[n] = Step(steps[n].spans, times * steps[n].seconds)
    assert close(fit_prefill(steps), cost, 0.02)


@given(st.lists(st.floats(1e-6, 1e3), min_size=len(SPANS), max_size=len(SPANS)))
@settings(max_examples=40, deadline=None)
def test_whatever_steps_took_nothing_is_negative_and_more_costs_no_less(taken: list[float]) -> None:
    found = fit_prefill([Step(spans, took) for spans, took in zip(SPANS, taken, strict=True)])
    assert min(found.start_s, found.token_s, found.position_s) >= 0
    assert np.isfinite([found.start_s, found.token_s, found.position_s]).all()
    for new, positions in ((1, 0), (16, 5000), (512, 10**6)):
        assert found.step(new + 1, positions) >= found.step(new, positions) <= found.step(new, positions + 1)


def test_the_best_without_negative_ones_is_the_best_there_is() -> None:
    """Where plain least squares would have a step cost less than nothing."""
    steps = [Step(spans, len(spans) ** 1.5 * 1e-5) for spans in SPANS]
    found = fit_prefill(steps)
    assert found.start_s == 0
    assert found.token_s > 0


def test_a_hole_counts_like_any_other_positions() -> None:
    """Seconds depend on how many tokens there are, and on the sum of their positions."""
    cost = PrefillCost(1e-3, 1e-3, 1e-6)
    runs = [step for step in made(cost) if len(step.spans.spans) == 1]
    holes = [step for step in made(cost) if len(step.spans.spans) == 2]
    assert len(holes) > 10
    found = fit_prefill(runs)
    assert quality(lambda spans: seconds(found, spans), holes).error < 1e-6


@pytest.mark.parametrize("k", [(1e-6, 7e-4, 2e-6, 9e-4, 3e-9, 4e-8, 5e-3), (0.0, 1e-3, 0.0, 1e-3, 0.0, 0.0, 0.0)])
def test_the_papers_form_is_found_again_too(k: tuple[float, ...]) -> None:
    """``k``: of l1, q1, l2, q2, (l1 + q1) squared, q2 times all, 1: worked out here by hand."""
    steps = []
    for spans in SPANS:
        first, *rest = spans.spans
        l1, q1 = first.start, first.stop - first.start
        l2, q2 = (rest[0].start - first.stop, rest[0].stop - rest[0].start) if rest else (0, 0)
        took = k[0] * l1 + k[1] * q1 + k[2] * l2 + k[3] * q2 + k[4] * (l1 + q1) ** 2
        steps.append(Step(spans, took + k[5] * q2 * (l1 + q1 + l2 + q2) + k[6]))
    found = fit_paper(steps)
    assert found.k == pytest.approx(k, rel=1e-4, abs=1e-9)
    assert quality(found.step, steps).error < 1e-6


def test_quality_is_that_of_the_definition() -> None:
    steps = [Step(SpanSet.full(1), 1.0), Step(SpanSet.full(2), 2.0), Step(SpanSet.full(3), 3.0)]
    said = {1: 1.0, 2: 2.5, 3: 3.0}
    found = quality(lambda spans: said[len(spans)], steps)
    assert (found.r2, found.error) == (1 - 0.25 / 2, 0.0)


def test_too_few_steps_are_refused() -> None:
    few = made(PrefillCost(0.0, 1e-3, 0.0))[: LEAST_STEPS - 1]
    for fit in (fit_prefill, fit_paper):
        with pytest.raises(EvalError, match="too few to fit costs to"):
            fit(few)


class TestSurvey:
    @pytest.mark.parametrize("survey", [FULL, BRIEF])
    @pytest.mark.parametrize(
        ("longest", "most"), [(8192, 512), (2048, 512), (2048, 64), (600, 512), (300, 8), (9, 512)]
    )
    def test_steps_fit(self, survey: Survey, longest: int, most: int) -> None:
        steps = survey.steps(longest, most)
        assert steps
        assert len(set(steps)) == len(steps)
        for spans in steps:
            assert spans.spans[-1].stop <= longest
            assert len(spans) <= most

    def test_there_are_holes_and_ends_of_all_sizes(self) -> None:
        assert {(len(spans), len(spans.spans)) for spans in SPANS} == {
            (size, runs) for size in (16, 64, 192, 512) for runs in (1, 2)
        }
