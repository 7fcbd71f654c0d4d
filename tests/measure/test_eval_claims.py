"""The claims about evaluation, small, and that they notice when they are false."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from bench.claims import eval_signal, eval_speed, kl_exact
from kvloom.eval.estimate import Estimate
from kvloom.eval.fidelity import fidelity
from kvloom.eval.policy import EXACT, parse_policy
from kvloom.eval.records import Row, RunStore
from kvloom.eval.run import Work
from tiny import random_prompt
from toy_tasks import ToyNeedle, ToyShape, tiny_subject


def test_thirteen_tasks_are_timed() -> None:
    assert len({task.name for task in eval_speed.thirteen()}) == 13


def test_a_run_is_timed_beside_its_estimate() -> None:
    timing = eval_speed.timed(tiny_subject(), [ToyNeedle(), ToyShape()], 60, 3)
    assert timing.answers == 6
    assert 0 < timing.estimated.least_s < timing.estimated.most_s


@pytest.mark.parametrize(("taken", "well"), [(8.1, True), (20.0, True), (35.9, True), (7.9, False), (36.1, False)])
def test_a_bad_estimate_is_noticed(taken: float, well: bool) -> None:
    estimated = Estimate(10.0, 30.0, prompts=1, prompt_tokens=1, new_tokens=1)
    assert eval_speed.Timing(estimated, taken, 1).well_estimated is well


def test_damage_is_noticed_and_its_absence_too() -> None:
    subject, texts = tiny_subject(), [random_prompt(160, seed) for seed in range(3)]
    damaged = fidelity(subject, parse_policy("random:ratio=0.5"), texts, 0.8)
    assert kl_exact.noticed(dataclasses.replace(damaged, perplexity_other=damaged.perplexity_exact + 1))
    assert not kl_exact.noticed(fidelity(subject, EXACT, texts, 0.8))


LONG = 60
PLAN = {("toy_shape", LONG): 60}


@pytest.fixture(scope="module")
def toy_rows() -> list[Row]:
    work = Work(tasks=(ToyNeedle(), ToyShape()), lengths=(LONG,), count=6, seed=1)
    return eval_signal.answers(tiny_subject(), work)


def scored(rows: list[Row], scores: list[float]) -> list[Row]:
    """Rows of one task, with scores that are known and answers of others that are worth nothing."""
    first = next(row for row in rows if row.task == "toy_shape")
    return [
        dataclasses.replace(first, index=n, score=score, control=0.0, document=f"document {n}")
        for n, score in enumerate(scores)
    ]


def test_composites_are_judged_by_their_width(toy_rows: list[Row]) -> None:
    narrow, wide = scored(toy_rows, [0.8, 0.8, 0.9] * 20), scored(toy_rows, [1.0, 1.0, 0.0] * 20)
    assert eval_signal.verdict_of(narrow, PLAN, ()).holds
    assert eval_signal.verdict_of(wide, PLAN, ()) == eval_signal.Verdict(1, 0, (), ())


def test_records_must_be_complete(toy_rows: list[Row]) -> None:
    rows = scored(toy_rows, [0.8] * 60)
    assert eval_signal.verdict_of(rows[1:], PLAN, ()).missing == ("toy_shape/60",)
    longer = eval_signal.verdict_of(rows, PLAN | {("toy_shape", 90): 1}, ())
    assert (longer.missing, longer.composites, longer.narrow) == (("toy_shape/90",), 2, 1)
    assert not eval_signal.verdict_of(rows[1:], PLAN, ()).holds


def test_records_must_repeat(toy_rows: list[Row]) -> None:
    subject, tasks = tiny_subject(), {task.name: task for task in (ToyNeedle(), ToyShape())}
    assert not list(eval_signal.repeated(subject, toy_rows, tasks, count=12))
    changed = [dataclasses.replace(row, output="?") if row.index == 3 else row for row in toy_rows]
    found = list(eval_signal.repeated(subject, changed, tasks, count=12))
    assert sorted(found) == ["toy_needle/60 sample 3", "toy_shape/60 sample 3"]
    assert not eval_signal.verdict_of(scored(toy_rows, [0.8] * 60), PLAN, found).holds


def test_the_newest_records_are_judged(toy_rows: list[Row], tmp_path: Path) -> None:
    assert eval_signal.records_of("tiny", tmp_path) == []
    for month, rows in {"2030-11": toy_rows, "2030-02": toy_rows[:3]}.items():
        with RunStore(tmp_path / "machine" / month / "eval" / "tiny", toy_rows[0].settings) as store:
            for row in rows:
                store.append(row)
    assert eval_signal.records_of("tiny", tmp_path) == toy_rows


def test_the_plan_is_what_is_promised() -> None:
    plan = eval_signal.planned("gemma-3-270m")
    assert sum(length == 8192 for _, length in plan) == 9
    assert all(plan[name, 1024] == 25 <= plan[name, 2048] and plan[name, 4096] >= 10 for name in eval_signal.TASKS)
    assert all(plan[name, length] == 40 for name in eval_signal.TELLING for length in (2048, 4096))
    assert all(plan[name, 8192] == 40 for name in eval_signal.FOUND)
