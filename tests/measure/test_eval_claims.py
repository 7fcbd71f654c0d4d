"""The claims about evaluation, small, and that they notice when they are false."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from bench.claims import eval_signal, eval_speed, kl_exact
from kvloom.eval.estimate import Estimate
from kvloom.eval.fidelity import fidelity
from kvloom.eval.policy import Damaged, Exact
from kvloom.eval.run import Work
from kvloom.eval.stats import Interval
from kvloom.eval.summary import Composite, summarize
from tiny import random_prompt
from toy_tasks import ToyNeedle, ToyShape, tiny_subject


def test_thirteen_tasks_are_timed() -> None:
    assert len({task.name for task in eval_speed.thirteen()}) == 13


def test_a_run_is_timed_beside_its_estimate() -> None:
    timing = eval_speed.timed(tiny_subject(), [ToyNeedle(), ToyShape()], 60, 3)
    assert timing.answers == 6
    assert 0 < timing.foretold.least_s < timing.foretold.most_s


@pytest.mark.parametrize(("taken", "well"), [(8.1, True), (20.0, True), (35.9, True), (7.9, False), (36.1, False)])
def test_a_bad_estimate_is_noticed(taken: float, well: bool) -> None:
    foretold = Estimate(10.0, 30.0, prompts=1, prompt_tokens=1, new_tokens=1)
    assert eval_speed.Timing(foretold, taken, 1).foretold_well is well


def test_damage_is_noticed_and_its_absence_too() -> None:
    subject, texts = tiny_subject(), [random_prompt(160, seed) for seed in range(3)]
    damaged = fidelity(subject, Damaged(), texts, 0.8)
    assert kl_exact.noticed(dataclasses.replace(damaged, perplexity_other=damaged.perplexity_exact + 1))
    assert not kl_exact.noticed(fidelity(subject, Exact(), texts, 0.8))


def test_composites_are_judged_by_their_width(tmp_path: Path) -> None:
    work = Work(tasks=(ToyNeedle(), ToyShape()), lengths=(60,), count=4, seed=1)
    rows = eval_signal.answers(tiny_subject(), work, tmp_path)
    assert len(rows) == 8
    subject = tiny_subject()
    assert eval_signal.answers(subject, work, tmp_path) == rows
    narrow, wide = (
        Composite(group="all", length=60, tasks=("a",), score=Interval(0.5, 0.5 - half, 0.5 + half))
        for half in (0.04, 0.06)
    )
    part = dataclasses.replace(wide, group="toy")
    summary = dataclasses.replace(summarize(rows), composites=(narrow, wide, part))
    assert eval_signal.verdict_of(summary) == eval_signal.Verdict(composites=2, narrow=1)
