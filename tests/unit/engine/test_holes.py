"""Which hits after holes are gone on with: the choice of brute force, and the same answers whatever it is."""

from __future__ import annotations

from functools import partial
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny
from kvloom.engine.params import SamplingParams
from kvloom.engine.scheduler import coverage
from kvloom.engine.scheduler.holes import MOST_HOLES, not_worth_it
from kvloom.policy.actions import Drop
from kvloom.policy.cost import PrefillCost
from kvloom.segment import Span, SpanSet, Why

GREEDY = SamplingParams(temperature=0.0, max_tokens=6, ignore_eos=True)
COST = PrefillCost(start_s=0.0, token_s=1e-3, position_s=1e-6)
costs = st.builds(PrefillCost, st.just(0.0), st.floats(1e-5, 1e-2), st.sampled_from([0.0, 1e-8, 1e-6, 1e-4]))


def spans_of(lengths: list[tuple[int, int]]) -> SpanSet:
    """From (hole before, cached) pairs."""
    found, at = [], 0
    for hole, cached in lengths:
        found.append(Span(at + hole, at + hole + cached))
        at += hole + cached
    return SpanSet.of(found)


def seconds(cached: SpanSet, computed: SpanSet, cost: PrefillCost, hole_tokens: float) -> float:
    """Of computing what is not cached and ``computed``, and of crossing every hole that something kept comes after."""
    length = cached.spans[-1].stop
    missing = (SpanSet.full(length) - cached) | computed
    holes = sum(any(each.start == span.stop for each in cached - computed) for span in missing)
    return cost.computing(missing) + hole_tokens * cost.token_s * holes


@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=7),
    st.booleans(),
    costs,
    st.integers(0, 5),
    st.sampled_from([0.0, 3.5, 20.0, 1e9]),
)
def test_the_choice_is_the_best_of_all(
    lengths: list[tuple[int, int]], prefix: bool, cost: PrefillCost, most: int, hole_tokens: float
) -> None:
    cached = spans_of([(0 if prefix else lengths[0][0], lengths[0][1]), *lengths[1:]])
    after = [span for span in cached if span.start]
    chosen = not_worth_it(cached, cost, most, hole_tokens)
    assert chosen.spans == tuple(span for span in after if span.start in chosen), "whole spans"
    assert len(after) - len(chosen.spans) <= most
    possible = [
        SpanSet.of(some)
        for count in range(len(after) + 1)
        for some in combinations(after, count)
        if len(after) - count <= most
    ]
    best = min(seconds(cached, some, cost, hole_tokens) for some in possible)
    assert seconds(cached, chosen, cost, hole_tokens) == pytest.approx(best)


def test_a_page_is_worth_a_hole_and_a_few_tokens_are_not() -> None:
    assert not not_worth_it(SpanSet.of([Span(0, 64), Span(80, 96)]), COST)
    assert not_worth_it(SpanSet.of([Span(0, 64), Span(80, 83)]), COST) == SpanSet((Span(80, 83),))


def test_of_very_many_holes_those_that_save_the_most_are_crossed() -> None:
    cached = SpanSet.of([Span(start, start + 16) for start in range(0, 32 * 100, 32)])
    chosen = not_worth_it(cached, COST)
    assert len(chosen.spans) == 99 - MOST_HOLES
    assert chosen.spans[-1].stop == 32 * (99 - MOST_HOLES) + 16, "the last are the most expensive"


@pytest.mark.parametrize("windows", [(None, None), (24, None, 24)], ids=["dense", "hybrid"])
@settings(max_examples=15, deadline=None)
@given(st.sets(st.integers(0, 8), max_size=6), st.integers(0, 4), st.sampled_from([7, 64]))
def test_answers_and_bits_do_not_depend_on_the_choice(
    windows: tuple[int | None, ...], dropped: set[int], most: int, step_tokens: int
) -> None:
    """Also of a third request, which finds what the second one has left."""
    prompt = tiny.random_prompt(150, 5)
    expected = tiny.run(tiny.make_engine(windows), {"x": prompt}, GREEDY)["x"].tokens
    engine = tiny.make_engine(windows, step_tokens=step_tokens)
    tiny.run(engine, {"first": prompt}, GREEDY)
    gone = [tuple(prompt[16 * n : 16 * n + 16]) for n in dropped]
    for page in engine.ledger.droppable():
        if engine.ledger.index.entry_of(page).tokens in gone:
            engine.ledger.apply(Drop(page))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coverage, "not_worth_it", partial(not_worth_it, most=most))
        second = tiny.run(engine, {"x": prompt}, GREEDY)["x"]
    assert second.tokens == expected
    metrics = second.updates[-1].metrics
    again = sum(len(miss.span) for miss in metrics.misses if miss.why is Why.SCATTERED)
    holes = len([n for n in dropped if n + 1 not in dropped])
    if windows == (None, None) and holes > most:
        assert again > 0
    assert metrics.cached_tokens + sum(len(miss.span) for miss in metrics.misses) == len(prompt)
    third = tiny.run(engine, {"x": prompt}, GREEDY)["x"]
    assert third.tokens == expected
    if windows == (None, None):
        assert third.updates[-1].metrics.cached_tokens == len(prompt) - 1
