"""a3-quality: of all selectors, A^3 at 15% keeps the most of a full prefill's answers, and loses 2 points at most.

Judged from the records of ``python -m bench.fusion_study`` below ``bench/results/<hardware>/<month>/fusion``, which
take an hour to make: questions over documents that were computed alone, SmolLM2.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.filing import RESULTS
from bench.fusion_answers import Answers
from bench.fusion_page import selectors_of
from bench.fusion_records import Records, way_at
from bench.fusion_study import MODEL, WAYS, Plan, answer_all
from bench.fusion_tasks import made_tasks
from bench.harness import Check, Outcome, at_least, note, worst_of
from bench.side_by_side import subject_named
from kvloom.eval.report.markdown import points
from kvloom.model.files.store import pull

OURS, RATIO, WITHIN = "a3", 0.15, 2.0


def checks(records: Records) -> Iterator[Check]:
    """A composite of at least the exact one less ``WITHIN`` points, and of any other selector's; records that are not
    there fail.
    """
    if not records.complete or not records.counting:
        yield Check("records", 0.0, 1.0, "of 1", 0.0, "missing; `python -m bench.fusion_study` makes them")
        return
    way, best = way_at(OURS, RATIO), 100 * records.best
    mine, overall = 100 * records.composite(way), records.against_exact(way).overall
    remark = "" if overall is None else f"{points(overall.difference)} from exact, {best:.1f}"
    yield at_least("A^3 and a full prefill", mine, max(1.0, best - WITHIN), "composite", remark)
    for name in others(records.ways):
        other = way_at(name, RATIO)
        between = records.between(other, way).overall
        said = "" if between is None else f"{points(between.difference)} more, p {between.p:.2g}"
        said += f"; KL {records.kl(way).mean:.4f} and {records.kl(other).mean:.4f}"
        yield at_least(f"A^3 and {name}", mine, max(1.0, 100 * records.composite(other)), "composite", said)


def others(ways: Sequence[str]) -> list[str]:
    """Selectors beside A^3: its unions with others are not among them."""
    return [name for name in selectors_of(ways) if "+" not in name and name != OURS]


def newest(results: Path = RESULTS) -> Path | None:
    """The study that was filed last."""
    places = sorted(results.glob(f"*/*/fusion/{MODEL}"), key=lambda place: place.parts[-3])
    return places[-1] if places else None


def measure(quick: bool) -> Outcome:
    """Full: the filed records. Quick: three questions of three tasks; it shows that they are answered and judged."""
    if quick:
        return _quick()
    place = newest()
    if place is None:
        note("no study was filed; see bench/fusion_study.py for how to make one")
        return worst_of("a3-quality", [], {"missing": "records"})
    found = list(checks(Records(place, WAYS)))
    return worst_of("a3-quality", found, {"place": str(place.relative_to(RESULTS))})


def _quick() -> Outcome:
    pull(MODEL)
    ways = ("reuse", "a3:ratio=0", "a3:ratio=0.15", "epic:ratio=0.15", "recompute")
    tasks = [task for task in made_tasks() if task.name in ("needle", "keys", "two_hops")]
    with tempfile.TemporaryDirectory() as place:
        answers = Answers.of(subject_named(MODEL), Path(place), ways)
        answer_all(answers, Plan(tasks, 3, ways, judged=3))
        records = Records(Path(place), ways)
        far = {way: records.kl(way).mean for way in ways}
        answered = at_least("questions answered in every way", len(records.exact), 3 * len(tasks), "questions")
        closer = at_least("A^3 is closer than nothing repaired", far["reuse"] / max(1e-9, far["a3:ratio=0.15"]), 1, "x")
    return worst_of("a3-quality", [answered, closer], {"quick": True, "kl": {w: round(k, 4) for w, k in far.items()}})
