"""What claims about the quality of compressed contexts are judged from: the filed records of a study of compression."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from bench.filing import RESULTS
from bench.harness import Check, Outcome, at_least, note, worst_of
from bench.side_by_side import JUDGE_SEED, SEED, name_of, subject_named
from bench.study import CANARIES, QUICK, Study
from bench.study_page import composite
from kvloom.eval.compare import compare
from kvloom.eval.identity import policy_digest
from kvloom.eval.judge import Judge, judge_of
from kvloom.eval.policy import EXACT, Policy, parse_policy
from kvloom.eval.records import Row, read_rows
from kvloom.eval.report.markdown import points
from kvloom.model.files.store import pull

MODELS = ("smollm2-135m-instruct", "gemma-3-270m")
LENGTHS = (2048, 4096)
OURS, YARDSTICK = "kvzap:ratio={},allocator=lukv", "kvzip:ratio={},allocator=global"


@dataclass(frozen=True, slots=True)
class Bar:
    """``within``: points that may be lost of the exact composite. ``yardstick``: whether KVzip's must be reached."""

    ratio: float
    within: float
    yardstick: bool = False


@dataclass(frozen=True, slots=True)
class Records:
    """A model's, in a directory for each method. ``lengths``: those that must be there."""

    place: Path
    lengths: tuple[int, ...] = LENGTHS

    def rows(self, policy: Policy, seed: int = SEED) -> list[Row]:
        """None of a canary; empty when there are no records."""
        directory = self.place / name_of(policy) / f"answers-{seed}"
        rows = read_rows(directory) if directory.is_dir() else []
        return [row for row in rows if row.length in self.lengths and row.task not in CANARIES]

    def checks(self, model: str, bar: Bar) -> Iterator[Check]:
        """One at least for every length; what has no records fails."""
        exact, judging = self.rows(EXACT), self.rows(EXACT, JUDGE_SEED)
        ours, yardstick = (parse_policy(words.format(bar.ratio)) for words in (OURS, YARDSTICK))
        mine, theirs = self.rows(ours), self.rows(yardstick) if bar.yardstick else []
        if not (exact and judging and mine) or (bar.yardstick and not theirs):
            note(f"{model}: records are missing below {self.place}; `python -m bench.compression_study` makes them")
            yield Check(f"{model}: records", 0.0, 1.0, "of 1", 0.0, "missing")
            return
        if mine[0].settings.code != policy_digest(ours):
            note(f"{model}: the records are of other code than this")
        judge = judge_of([exact, judging], exact[0].settings)
        for length in self.lengths:
            yield from _checks(f"{model}, {length}", _at(exact, length), _at(mine, length), judge, bar)
            if bar.yardstick:
                yield _reached(f"{model}, {length}", _at(mine, length), _at(theirs, length), judge)


def _checks(name: str, exact: list[Row], mine: list[Row], judge: Judge, bar: Bar) -> Iterator[Check]:
    overall = compare(exact, mine, judge, common=True).overall if exact and mine else None
    if overall is None:
        yield Check(name, 0.0, 1.0, "composite", 0.0, "no task counts")
        return
    best, change = sum(composite(exact, judge, ()).values()), overall.difference
    remark = f"{points(change)} from exact, {100 * best:.1f}"
    yield at_least(name, 100 * (best + change.mean), max(1.0, 100 * best - bar.within), "composite", remark)


def _reached(name: str, mine: list[Row], theirs: list[Row], judge: Judge) -> Check:
    (ours,), (yardstick,) = (list(composite(rows, judge, ()).values()) or [0.0] for rows in (mine, theirs))
    return at_least(f"{name}, beside KVzip", 100 * ours, max(1.0, 100 * yardstick), "composite", "at the same bytes")


def _at(rows: list[Row], length: int) -> list[Row]:
    return [row for row in rows if row.length == length]


def newest(results: Path = RESULTS) -> Path | None:
    """The study that was filed last."""
    places = sorted(results.glob("*/*/compression"), key=lambda place: place.parts[-2])
    return places[-1] if places else None


def judged(claim: str, bar: Bar, quick: bool, results: Path = RESULTS) -> Outcome:
    """Full: the records of both models. Quick: three tasks, 8 samples at 512 tokens, one model; nothing is kept."""
    if quick:
        return _quick(claim, bar)
    place = newest(results)
    if place is None:
        note("no study was filed; see bench/compression_study.py for how to make one")
        return worst_of(claim, [], {"missing": "records"})
    checks = [check for model in MODELS for check in Records(place / model).checks(model, bar)]
    return worst_of(claim, checks, {"place": str(place.relative_to(results))})


def _quick(claim: str, bar: Bar) -> Outcome:
    """It shows that contexts of which much was removed are answered and judged: eight samples say no more."""
    model = MODELS[0]
    pull(model)
    plan = replace(QUICK, ratios=(bar.ratio,), methods=("kvzip:allocator=global", "kvzap:allocator=lukv"), texts=0)
    with tempfile.TemporaryDirectory() as place:
        study = Study(subject_named(model), plan, Path(place))
        policies = study.possible()
        study.answer_all([policy for *_, policy in policies])
        checks = list(Records(Path(place), plan.lengths).checks(model, replace(bar, within=100.0, yardstick=False)))
    return worst_of(claim, checks, {"quick": True})
