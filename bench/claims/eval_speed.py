"""eval-speed: thirteen tasks with twenty samples each at 2K within 25 minutes on two cores, and foretold.

RULER's eleven offline tasks, the needle grid and the needles without words in common; exact cache, a fresh directory.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench.drive import load
from bench.harness import Outcome, note
from kvloom.eval.answering import answerer_of
from kvloom.eval.estimate import calibrate, estimate
from kvloom.eval.policy import Exact
from kvloom.eval.records import RunStore
from kvloom.eval.run import Benchmark, Work, run, settings_of
from kvloom.eval.subject import Subject, subject_of
from kvloom.eval.tasks import TASKS
from kvloom.model.store import pull

MODEL = "smollm2-135m-instruct"
GOAL_MINUTES = 25.0
OFF_BY = 0.3
IN_FLIGHT = 8


def thirteen() -> list[Benchmark]:
    """The tasks that are timed."""
    chosen = [task for task in TASKS.values() if task.group == "ruler" or task.name in ("niah", "nolima_one_hop")]
    assert len(chosen) == 13, [task.name for task in chosen]
    return list(chosen)


def timed(subject: Subject, tasks: Sequence[Benchmark], length: int, count: int) -> tuple[float, float, int]:
    """(seconds foretold, seconds taken, answers) of a run in a fresh directory."""
    work = Work(tasks=tasks, lengths=(length,), count=count, seed=0)
    foretold = estimate(work, subject, calibrate(subject, length, IN_FLIGHT)).seconds
    note(f"{len(tasks)} tasks x {count} samples at {length} tokens: foretold {foretold / 60:.1f} minutes")
    policy = Exact()
    with tempfile.TemporaryDirectory() as place:
        settings = settings_of(subject, policy, seed=0, in_flight=IN_FLIGHT)
        started = time.monotonic()
        with RunStore(Path(place), settings) as store:
            run(work, subject, answerer_of(subject, policy, "query-agnostic", IN_FLIGHT), store)
            return foretold, time.monotonic() - started, len(store.rows)


def measure(quick: bool) -> Outcome:
    """Full: 20 samples at 2048 tokens. Quick: 2 samples at 512, and a goal that shrinks with them."""
    length, count = (512, 2) if quick else (2048, 20)
    pull(MODEL)
    foretold, taken, answers = timed(subject_of(load(MODEL).loaded), thirteen(), length, count)
    goal = GOAL_MINUTES * (length * count) / (2048 * 20)
    fitting = abs(foretold / taken - 1) <= OFF_BY
    details = {
        "quick": quick,
        "answers": answers,
        "foretold_minutes": foretold / 60,
        "foretold_over_taken": foretold / taken,
        "foretold_well": fitting,
    }
    # A short run is mostly start-up and short answers, which no estimate foretells: only the full one judges it.
    holds = taken / 60 <= goal and (quick or fitting)
    return Outcome("eval-speed", taken / 60, goal, "minutes", holds, details)
