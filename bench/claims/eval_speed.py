"""eval-speed: thirteen tasks with twenty samples each at 2K within 25 minutes on two cores, in the estimated time.

RULER's eleven offline tasks, the needle grid and the needles without words in common; exact cache, a fresh directory.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.drive import load
from bench.harness import Outcome, note
from kvloom.eval.answering import EngineAnswers
from kvloom.eval.estimate import Estimate, calibrate, estimate
from kvloom.eval.policy import EXACT
from kvloom.eval.records import RunStore
from kvloom.eval.run import Benchmark, Work, run, settings_of
from kvloom.eval.subject import Subject, subject_of
from kvloom.eval.tasks import TASKS
from kvloom.model.files.store import pull

MODEL = "smollm2-135m-instruct"
GOAL_MINUTES = 25.0
OFF_BY = 0.2
"""How far a run may end outside of the estimated range: machines are noisy."""

IN_FLIGHT = 8


def thirteen() -> list[Benchmark]:
    """The tasks that are timed."""
    chosen = [task for task in TASKS.values() if task.group == "ruler" or task.name in ("niah", "nolima_one_hop")]
    assert len(chosen) == 13, [task.name for task in chosen]
    return list(chosen)


@dataclass(frozen=True, slots=True)
class Timing:
    """A run: the estimate, the time it took, the number of answers."""

    estimated: Estimate
    taken_s: float
    answers: int

    @property
    def well_estimated(self) -> bool:
        return self.estimated.least_s * (1 - OFF_BY) <= self.taken_s <= self.estimated.most_s * (1 + OFF_BY)


def timed(subject: Subject, tasks: Sequence[Benchmark], length: int, count: int) -> Timing:
    """Run in a fresh directory."""
    work = Work(tasks=tasks, lengths=(length,), count=count, seed=0)
    estimated = estimate(work, subject, calibrate(subject, length, IN_FLIGHT))
    minutes = f"{estimated.least_s / 60:.1f} to {estimated.most_s / 60:.1f} minutes"
    note(f"{len(tasks)} tasks x {count} samples at {length} tokens: {minutes} estimated")
    policy = EXACT
    with tempfile.TemporaryDirectory() as place:
        settings = settings_of(subject, policy, seed=0, in_flight=IN_FLIGHT)
        started = time.monotonic()
        with RunStore(Path(place), settings) as store:
            run(work, subject, EngineAnswers(subject, IN_FLIGHT, policy), store)
            return Timing(estimated, time.monotonic() - started, len(store.rows))


def measure(quick: bool) -> Outcome:
    """Full: 20 samples at 2048 tokens. Quick: 2 samples at 512, and a goal that shrinks with them."""
    length, count = (512, 2) if quick else (2048, 20)
    pull(MODEL)
    found = timed(subject_of(load(MODEL).loaded), thirteen(), length, count)
    goal = GOAL_MINUTES * (length * count) / (2048 * 20)
    details = {
        "quick": quick,
        "answers": found.answers,
        "estimated_minutes": [found.estimated.least_s / 60, found.estimated.most_s / 60],
        "well_estimated": found.well_estimated,
    }
    taken = found.taken_s / 60
    return Outcome("eval-speed", taken, goal, "minutes", taken <= goal and found.well_estimated, details)
