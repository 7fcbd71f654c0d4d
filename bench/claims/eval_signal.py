"""eval-signal: which tasks carry signal on small models, and composites that are worth comparing.

All offline tasks, exact cache. A composite is the mean over the tasks with signal at one length; it counts when its
95% interval is within 5 points. Rows are kept under `eval-runs/claim-eval-signal`: an interrupted run goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.drive import load
from bench.harness import Outcome, note
from kvloom.eval.answering import answerer_of
from kvloom.eval.estimate import calibrate, estimate
from kvloom.eval.policy import Exact
from kvloom.eval.records import Row, RunStore
from kvloom.eval.report.gather import report_of
from kvloom.eval.report.write import write_report
from kvloom.eval.run import Benchmark, Work, run, settings_of
from kvloom.eval.subject import Subject, subject_of
from kvloom.eval.summary import Summary, summarize
from kvloom.eval.tasks import TASKS
from kvloom.model.store import pull

MODELS = ("smollm2-135m-instruct", "gemma-3-270m")
PLACE = Path("eval-runs") / "claim-eval-signal"
WITHIN = 0.05
IN_FLIGHT = 8
QUICK_TASKS = ("niah", "niah_single_1", "niah_multikey_2", "vt", "key_value", "babilong_qa1")


@dataclass(frozen=True, slots=True)
class Verdict:
    """Composites over all groups of one model, and how many are within the interval wanted."""

    composites: int
    narrow: int


def verdict_of(summary: Summary) -> Verdict:
    """Count the composites over all groups."""
    everything = [each for each in summary.composites if each.group == "all"]
    return Verdict(len(everything), sum(each.score.half_width <= WITHIN for each in everything))


def answers(subject: Subject, work: Work, place: Path) -> list[Row]:
    """Rows of a run in ``place``, whatever is missing computed."""
    policy = Exact()
    settings = settings_of(subject, policy, seed=work.seed, in_flight=IN_FLIGHT)
    with RunStore(place, settings) as store:
        left = estimate(work, subject, calibrate(subject, max(work.lengths), IN_FLIGHT), store)
        note(f"{subject.name}: {left.prompts} prompts, {left.least_s / 60:.0f} to {left.most_s / 60:.0f} minutes")
        run(work, subject, answerer_of(subject, policy, "query-agnostic", IN_FLIGHT), store)
        return list(store.rows.values())


def measure(quick: bool) -> Outcome:
    """Full: two models, all offline tasks, 25 samples at 1K and 2K. Quick: six tasks, 8 samples at 512, one model."""
    tasks: Sequence[Benchmark] = [TASKS[name] for name in QUICK_TASKS] if quick else list(TASKS.values())
    lengths, count = ((512,), 8) if quick else ((1024, 2048), 25)
    work = Work(tasks=tasks, lengths=lengths, count=count, seed=0)
    summaries = []
    for model in MODELS[:1] if quick else MODELS:
        pull(model)
        place = PLACE / ("quick-" + model if quick else model)
        rows = answers(subject_of(load(model).loaded), work, place)
        write_report(report_of([rows]), place)
        summaries.append(summarize(rows))
    verdicts = [verdict_of(summary) for summary in summaries]
    narrow, composites = sum(each.narrow for each in verdicts), sum(each.composites for each in verdicts)
    details = {
        "quick": quick,
        "signal": {each.settings.model: _cells(each, True) for each in summaries},
        "no_signal": {each.settings.model: _cells(each, False) for each in summaries},
    }
    if quick:  # so few samples cannot make an interval narrow: it is enough that needles are found and tasks told apart
        found = sum(cell.signal for cell in summaries[0].cells)
        return Outcome("eval-signal", found, 1, "tasks with signal", found >= 1, details)
    wanted = len(MODELS) * len(lengths)
    return Outcome("eval-signal", narrow, wanted, "composites within 5 points", narrow == composites == wanted, details)


def _cells(summary: Summary, signal: bool) -> dict[str, str]:
    return {f"{cell.task}/{cell.length}": str(cell.score) for cell in summary.cells if cell.signal is signal}
