"""The rows of prompts beside streams: what it learns, and that nobody starves or changes by it."""

from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st

import tiny
from kvloom.engine.params import SamplingParams
from kvloom.engine.scheduler.prefill_budget import SIZES, PrefillBudget

GREEDY = SamplingParams(temperature=0.0, max_tokens=40, ignore_eos=True)
SHORT = SamplingParams(temperature=0.0, max_tokens=8, ignore_eos=True)
QUIET_S = 0.02


def settled(budget: PrefillBudget, row_s: float, streams: int = 4, prompts: int = 1, steps: int = 400) -> list[int]:
    """Sizes chosen on a machine where every prompt row costs ``row_s``."""
    budget.took(streams, 0, "", QUIET_S)
    sizes = []
    for _ in range(steps):
        sizes.append(budget.rows(streams, prompts))
        budget.took(streams, sizes[-1], "prompt", QUIET_S + row_s * sizes[-1])
    return sizes


@given(st.floats(1e-5, 1e-3), st.floats(1.5, 4.0))
def test_the_budget_is_the_largest_that_fits(row_s: float, slowdown: float) -> None:
    sizes = settled(PrefillBudget(slowdown), row_s)
    last = sizes[-1]
    assert last == SIZES[0] or row_s * last <= (slowdown - 1) * QUIET_S
    larger = next((size for size in SIZES if size > last), None)
    assert larger is None or row_s * larger > (slowdown - 1) * QUIET_S / 2


def test_where_prompts_outnumber_streams_they_get_more() -> None:
    budget = PrefillBudget(2.0)
    settled(budget, 1e-4)
    assert budget.rows(4, 40) == 10 * budget.rows(4, 1)


def test_a_size_that_took_too_long_is_left_and_tried_again_only_after_a_while() -> None:
    budget = PrefillBudget(2.0)
    sizes = settled(budget, 1e-4)
    budget.took(4, sizes[-1], "prompt", 1.0)
    after = settled(budget, 1e-4)
    assert after[0] < sizes[-1]
    again = after.index(sizes[-1])
    assert again > 100
    assert after[-1] == sizes[-1]


def test_the_next_prompt_starts_from_where_the_last_one_was() -> None:
    budget = PrefillBudget(2.0)
    sizes = settled(budget, 1e-4)
    budget.took(4, sizes[-1], "another", QUIET_S)
    assert budget.rows(4, 1) > sizes[-1]


class Clock:
    """Seconds that pass by the row: a step's time is what it computed."""

    def __init__(self, model: tiny.TinyModel) -> None:
        self.model = model

    def __call__(self) -> float:
        return sum(0.1 + 0.01 * rows for rows in self.model.rows)


def run_with_late_prompt(length: int, slowdown: float, streams: int = 2) -> tuple[tiny.Engine, dict[str, list[int]]]:
    """Streams run; then a long prompt comes. Tokens by request."""
    engine = tiny.make_engine(step_tokens=64, max_decode_slowdown=slowdown)
    engine.clock = engine.account.clock = engine.commit.clock = Clock(engine.model)
    tokens: dict[str, list[int]] = {f"stream{n}": [] for n in range(streams)} | {"long": []}
    for n in range(streams):
        engine.submit(f"stream{n}", tiny.random_prompt(9, n), GREEDY)
    while engine.has_work:
        if len(tokens["stream0"]) == 6 and "long" not in engine.requests:
            engine.submit("long", tiny.random_prompt(length, 99), SHORT)
        for update in engine.step():
            tokens[update.request_id] += update.deltas[0].token_ids
        engine.check()
    return engine, tokens


@settings(max_examples=5, deadline=None)
@given(st.integers(20, 120), st.sampled_from([1.0, 2.0, math.inf]))
def test_bits_do_not_depend_on_the_budget(length: int, slowdown: float) -> None:
    _, tokens = run_with_late_prompt(length, slowdown)
    alone = {"long": tiny.random_prompt(length, 99), "stream1": tiny.random_prompt(9, 1)}
    for name, prompt in alone.items():
        expected = tiny.run(tiny.make_engine(), {name: prompt}, GREEDY)[name].tokens[0]
        assert tokens[name] == expected[: len(tokens[name])]


def test_a_late_prompt_comes_in_small_steps_and_streams_go_on_in_every_one() -> None:
    engine, _ = run_with_late_prompt(200, 2.0)
    assert engine.model.rows[:6] == [18, 2, 2, 2, 2, 2]
    assert engine.model.rows[6:31] == [2 + SIZES[0]] * 25


def test_a_lone_prompt_gets_whole_steps() -> None:
    engine = tiny.make_engine(step_tokens=64)
    tiny.run(engine, {"a": tiny.random_prompt(300, 1)}, SHORT)
    assert engine.model.rows[:5] == [64, 64, 64, 64, 44]


def test_prompts_that_arrive_together_get_whole_steps() -> None:
    engine = tiny.make_engine(step_tokens=64)
    tiny.run(engine, {f"r{n}": tiny.random_prompt(100, n) for n in range(4)}, SHORT)
    assert engine.model.rows[:6] == [64] * 6
