"""What does fusion cost in quality, by selector and by how much is computed again? A page in Markdown, and charts.

    python -m bench.fusion_study --place DIR [--model NAME] [--samples N] [--task NAME ...] [--way WORDS ...]
        [--questions FILE] [--estimate] [--quick] [--times] [--page]

Every way to fuse answers the same questions over documents that were computed alone (``bench.fusion_tasks``): by
itself, and by the tokens of the exact answer, whose distributions are compared. It says first how long that will take,
by a trial. All is kept below the place, by model and way, and the same command goes on where it was stopped;
``--estimate`` does nothing else, ``--page`` writes the page from what is there. ``--quick`` shows that it works.
``--times`` measures times to the first token, in minutes, on a machine that does nothing else, and nothing else.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.fusion_answers import Answers, prepared
from bench.fusion_page import write_page
from bench.fusion_tasks import Asking, all_tasks, questions_file
from bench.fusion_times import SELECTORS, measure_times
from bench.harness import note
from bench.side_by_side import subject_named
from kvloom.engine.cache_params import CacheParams
from kvloom.errors import KvloomError
from kvloom.eval.dictated import exact_answer, heard
from kvloom.model.files.store import pull

MODEL = "smollm2-135m-instruct"

RATIOS = (0.05, 0.15, 0.3)
UNIONS = ("a3+epic", "a3+cacheblend", "prophetkv+epic")
AT_NOTHING = ("reuse", "a3:ratio=0")
"""With a check layer, layers up to it are exact at 0% too."""

WAYS = (
    *AT_NOTHING,
    *(f"{name}:ratio={ratio}" for name in SELECTORS for ratio in RATIOS),
    *(f"{name}:ratio=0.15" for name in UNIONS),
    "recompute",
)
_SAMPLES, _QUICK_SAMPLES, _JUDGED = 16, 3, 24
_BATCH = 4
"""Questions of each task in turn: who stops early has some of all."""


@dataclass(frozen=True, slots=True)
class Plan:
    """``judged``: other questions of each task, whose exact answers say which tasks count."""

    tasks: Sequence[Asking]
    samples: int
    ways: tuple[str, ...] = WAYS
    judged: int = _JUDGED


def expected(answers: Answers, plan: Plan) -> str:
    """How long what is missing takes, by one question of every task."""
    there = {(row.task, row.index) for row in answers.fewest()}
    seconds, questions = 0.0, 0
    for task in plan.tasks:
        missing = sum((task.name, n) not in there for n in range(plan.samples))
        if missing:
            seconds += missing * _seconds(answers, task)
            questions += missing
    return f"{questions} questions in {1 + len(plan.ways)} ways to go: {seconds / 60:.0f} minutes"


def _seconds(answers: Answers, task: Asking) -> float:
    subject = answers.subject
    question = next(iter(task.questions(1, 2, subject.text_length)))
    it = prepared(question, subject, answers.frame)
    started = time.perf_counter()
    said = exact_answer(subject.engine, it.tokens, it.params)
    ways = [CacheParams(fusion=fusion, documents=it.documents) for fusion in answers.fusions]
    heard(subject.engine, it.tokens, it.params, ways, said)
    return time.perf_counter() - started


def answer_all(answers: Answers, plan: Plan) -> None:
    for done in range(0, plan.samples, _BATCH):
        stop = min(plan.samples, done + _BATCH)
        for task in plan.tasks:
            asked = answers.answer(task, range(done, stop))
            note(f"{answers.subject.name}: {task.name}, {stop} of {plan.samples} questions, {asked} of them now")
    for task in plan.tasks:
        answers.judge(task, plan.judged)
        note(f"{answers.subject.name}: {task.name}, {plan.judged} other questions, answered exactly")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--place", type=Path, required=True)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--samples", type=int)
    parser.add_argument("--task", action="append")
    parser.add_argument("--way", action="append")
    parser.add_argument("--questions", type=Path, default=questions_file())
    for flag in ("estimate", "quick", "times", "page"):
        parser.add_argument(f"--{flag}", action="store_true")
    asked = parser.parse_args(arguments)
    place = asked.place / asked.model
    tasks = all_tasks(asked.questions)
    unknown = set(asked.task or ()) - {task.name for task in tasks}
    if unknown:
        there = ", ".join(task.name for task in tasks)
        print(f"error: no task `{unknown.pop()}`\nhint: there are {there}; some need --questions", file=sys.stderr)
        return 2
    if asked.page:
        print(write_page(asked.model, place, asked.way or WAYS))
        return 0
    pull(asked.model)
    if asked.times:
        print(measure_times(asked.model, place, asked.quick))
        return 0
    subject = subject_named(asked.model)
    chosen = [task for task in tasks if not asked.task or task.name in asked.task]
    samples, ways = asked.samples or (_QUICK_SAMPLES if asked.quick else _SAMPLES), tuple(asked.way or WAYS)
    plan = Plan(chosen, samples, ways, samples if asked.quick else _JUDGED)
    answers = Answers.of(subject, place, plan.ways)
    try:
        print(f"{asked.model}: {expected(answers, plan)}", flush=True)
        if not asked.estimate:
            answer_all(answers, plan)
            print(write_page(asked.model, place, plan.ways))
    except KvloomError as error:
        print(f"error: {error}" + (f"\nhint: {error.hint}" if error.hint else ""), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
