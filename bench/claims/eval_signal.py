"""eval-signal: which tasks count on small models, and composites that are worth comparing.

Judged from records under `bench/results/<hardware>/<month>/eval/<run>/`, which take hours to make. For each run of
``RUNS``, with PLACE its directory, and as often as `planned` asks for other samples or lengths:

    kvloom eval run MODEL --chat|--no-chat --length N --samples N [--task NAME ...] --output PLACE

A composite is the mean over the tasks that count at one length; it is good when its 95% interval is within 5 points.
As a row's bits depend on nothing but the row, records can be checked anywhere: a few prompts are answered again, alone,
and must get the recorded answers.
"""

from __future__ import annotations

import random
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.drive import load
from bench.filing import RESULTS
from bench.harness import Outcome, note
from kvloom.eval.answering import EngineAnswers
from kvloom.eval.frame import frame_of
from kvloom.eval.policy import EXACT
from kvloom.eval.prompt import prompts_of
from kvloom.eval.records import Row, RunStore, read_rows
from kvloom.eval.run import Work, run, settings_of
from kvloom.eval.subject import Subject, subject_of
from kvloom.eval.summary import CellKey, Summary, summarize
from kvloom.eval.task import Task
from kvloom.eval.tasks import TASKS, TaskFiles, make_tasks
from kvloom.eval.tasks.material import EDITION, Material
from kvloom.model.files.store import pull

RUNS = {
    "smollm2-135m-instruct-chat": "smollm2-135m-instruct",
    "smollm2-135m-instruct": "smollm2-135m-instruct",
    "gemma-3-270m": "gemma-3-270m",
}
"""The model of each run: with its chat template where the run says so, else without."""
WITHIN = 0.05
REPEATED = 10
LONGEST_REPEATED = 2048
QUICK_TASKS = ("niah", "niah_single_1", "niah_multikey_2", "vt", "key_value", "babilong_qa1")
NEEDLES = tuple(name for name in TASKS if name.startswith("niah"))
FOUND = ("niah", "niah_single_1", "niah_single_2", "niah_single_3", "niah_multikey_1")
"""Needles that small models find at any length: they get more samples, as the longer composites rest on them."""
TELLING = (*FOUND, "multi_turn")


MORE = {
    "smollm2-135m-instruct-chat": {("niah", 8192): 120, ("niah_single_1", 8192): 80},
    "smollm2-135m-instruct": {("niah", 8192): 120, ("niah_single_2", 8192): 90},
}
"""Of runs in which so few tasks count at a length that 40 samples of each leave an interval of more than 5 points."""


def planned(name: str) -> dict[CellKey, int]:
    """Samples that the records of a run must have at least, by task and length."""
    wanted = {(task, length): 25 for length in (1024, 2048) for task in TASKS}
    wanted |= {(task, 4096): 10 for task in TASKS} | {(task, 8192): 10 for task in NEEDLES}
    wanted |= {(task, length): 40 for length in (2048, 4096) for task in TELLING}
    return wanted | {(task, 8192): 40 for task in FOUND} | MORE.get(name, {})


@dataclass(frozen=True, slots=True)
class Verdict:
    """On the records of a run. ``missing``: cells with too few samples. ``changed``: answers that did not repeat."""

    composites: int
    narrow: int
    missing: tuple[str, ...]
    changed: tuple[str, ...]

    @property
    def holds(self) -> bool:
        return 0 < self.composites == self.narrow and not self.missing and not self.changed


def verdict_of(rows: Sequence[Row], plan: Mapping[CellKey, int], changed: Sequence[str]) -> Verdict:
    """Count the composites over all groups; there must be one for every length planned."""
    samples = Counter(key[:2] for key in {(row.task, row.length, row.index) for row in rows})
    everything = [each for each in summarize(rows).composites if each.group == "all"]
    return Verdict(
        composites=len({length for _, length in plan}),
        narrow=sum(each.score.half_width <= WITHIN for each in everything),
        missing=tuple(f"{task}/{length}" for (task, length), count in plan.items() if samples[task, length] < count),
        changed=tuple(changed),
    )


def records_of(run: str, results: Path = RESULTS) -> list[Row]:
    """The rows of a run's newest records; none if it has none."""
    places = sorted(results.glob(f"*/*/eval/{run}"), key=lambda place: place.parts[-3])
    return read_rows(places[-1]) if places else []


def repeated(subject: Subject, rows: Sequence[Row], tasks: Mapping[str, Task], count: int = REPEATED) -> Iterator[str]:
    """Answer a few recorded prompts again; those whose answers differ."""
    short = [row for row in rows if row.length <= LONGEST_REPEATED]
    frame = frame_of(subject) if rows[0].settings.chat else None
    for row in random.Random(0).sample(short, min(count, len(short))):
        task, made_with = tasks[row.task], row.settings
        work = Work(tasks=[task], lengths=[row.length], count=row.index + 1, seed=made_with.seed, frame=frame)
        *_, sample = work.samples(next(work.cells()), subject)
        prompt = prompts_of(task, sample, subject, frame)[row.turn]
        ((_, reply),) = EngineAnswers(subject, 1).answer([prompt])
        if reply.text != row.output:
            yield f"{row.task}/{row.length} sample {row.index}"


def measure(quick: bool) -> Outcome:
    """Full: the records of three runs. Quick: six tasks, 8 samples at 512 tokens, the dense model; nothing is kept."""
    return _quick() if quick else _judged()


def _judged() -> Outcome:
    verdicts, details = [], {}
    for name, model in RUNS.items():
        rows = records_of(name)
        if not rows:
            note(f"{name}: no records; see {__file__} for how to make them")
            return Outcome("eval-signal", 0, len(RUNS), "runs with records", False, {"missing": [name]})
        pull(model)
        recorded = rows[0].settings
        subject = subject_of(load(model, recorded.kv_dtype, recorded.activations).loaded)
        if recorded.weights_id != subject.engine.model.weights_id:
            changed = ["all: the records are of other weights"]
        elif recorded.versions.get("tasks") != str(EDITION):
            changed = ["all: the records are of another edition of the tasks"]
        else:
            material = Material(recorded.wording, recorded.haystack)
            changed = list(repeated(subject, rows, make_tasks(TaskFiles(), material)))
        verdict, summary = verdict_of(rows, planned(name), changed), summarize(rows)
        note(f"{name}: {len(rows)} answers, {REPEATED} repeated, {len(changed)} of them changed")
        verdicts.append(verdict)
        details[name] = {
            "composites": {f"{each.group}/{each.length}": str(each.score) for each in summary.composites},
            "counts": _cells(summary, True),
            "left_out": _cells(summary, False),
            "missing": verdict.missing,
            "changed": verdict.changed,
        }
    narrow, wanted = sum(each.narrow for each in verdicts), sum(each.composites for each in verdicts)
    holds = all(each.holds for each in verdicts)
    return Outcome("eval-signal", narrow, wanted, "composites within 5 points", holds, details)


def _quick() -> Outcome:
    model = next(iter(RUNS.values()))
    pull(model)
    subject = subject_of(load(model).loaded)
    work = Work(tasks=[TASKS[name] for name in QUICK_TASKS], lengths=(512,), count=8, seed=0)
    rows = answers(subject, work)
    summary = summarize(rows)
    changed = list(repeated(subject, rows, TASKS))
    found = sum(cell.counts for cell in summary.cells)
    details = {"quick": True, "counts": _cells(summary, True), "left_out": _cells(summary, False), "changed": changed}
    # intervals of so few samples are wide: it is enough that needles are found and tasks distinguished
    holds = 1 <= found < len(summary.cells) and not changed
    return Outcome("eval-signal", found, 1, "tasks with signal", holds, details)


def answers(subject: Subject, work: Work) -> list[Row]:
    """Rows of a run, eight prompts at once, in a temporary directory."""
    policy = EXACT
    with tempfile.TemporaryDirectory() as place:
        settings = settings_of(subject, policy, seed=work.seed)
        with RunStore(Path(place), settings) as store:
            run(work, subject, EngineAnswers(subject, settings.in_flight, policy), store)
            return list(store.rows.values())


def _cells(summary: Summary, counts: bool) -> dict[str, str]:
    return {f"{cell.task}/{cell.length}": str(cell.score) for cell in summary.cells if cell.counts is counts}
