"""A study of compression, tiny: it goes on where it was stopped, changes no answer, and says what it found."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from bench import study as study_module
from bench.side_by_side import SEED, Once, SideBySide
from bench.study import Plan, Study
from bench.study_page import Tried, page
from bench.study_time import expected
from kvloom.eval.judge import Judge
from kvloom.eval.run import Work
from tests.measure.study_rows import rows_of
from toy_tasks import ToyNeedle, ToyShape, tiny_subject

METHODS = ("knorm", "snapkv:window=5", "snapkv:window=5,allocator=adakv", "kvzip:allocator=global", "kvzap")
PLAN = Plan((ToyNeedle(), ToyShape()), (60, 90), 5, (0.5, 0.8), METHODS, texts=1, text_tokens=60)


@pytest.fixture(autouse=True)
def made_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study_module, "real_text", lambda: "the quick brown fox jumps over the lazy dog " * 5)


def study_in(place: Path, plan: Plan = PLAN) -> Study:
    return Study(tiny_subject(), plan, place / "tiny")


def test_it_is_whole_and_goes_on(tmp_path: Path) -> None:
    study = study_in(tmp_path)
    policies = study.possible()
    assert {method for method, *_ in policies} == {*METHODS} - {"kvzap"}  # nobody has trained it for this model
    before = expected(study, policies)
    assert before.answers == 8 * 2 * 2 * 5
    assert 0 < before.least_s < before.most_s
    study.answer_all([policy for *_, policy in policies])
    assert expected(study, policies).answers == 0
    first = study.report(policies)
    assert "### tiny, contexts of 90 tokens" in first
    assert first.count("`snapkv:window=5,allocator=adakv`") >= 3
    again = study_in(tmp_path)
    again.answer_all([policy for *_, policy in policies])
    assert again.report(policies) == first
    assert again.subject.engine.steps == 0
    assert expected(study_in(tmp_path, dataclasses.replace(PLAN, samples=6)), policies).answers == 8 * 2 * 2


def test_answers_are_those_of_methods_alone(tmp_path: Path) -> None:
    study = study_in(tmp_path)
    policies = study.possible()
    study.answer_all([policy for *_, policy in policies])
    assert not study.subject.engine.intake.seen
    alone = SideBySide(tiny_subject(), tmp_path / "alone")
    work = Work(tasks=PLAN.tasks, lengths=PLAN.lengths, count=PLAN.samples, seed=SEED)
    for *_, policy in policies:
        alone.run(policy, SEED, work)
        mine, theirs = ({row.key: row for row in each.rows(policy, SEED, *AT)} for each in (study.beside, alone))
        assert {key: (row.output, row.context_bytes_per_token) for key, row in mine.items()} == {
            key: (row.output, row.context_bytes_per_token) for key, row in theirs.items()
        }


AT = PLAN.tasks, PLAN.lengths, PLAN.samples


def test_samples_are_made_once() -> None:
    task, subject = ToyNeedle(), tiny_subject()
    once = Once(task, 5)
    for count in (2, 5, 7):
        asked = {"length": 60, "count": count, "seed": 3, "text_length": subject.text_length}
        assert list(once.samples(**asked)) == list(task.samples(**asked))


def test_lukv_is_set_against_other_allocators_with_its_losses() -> None:
    judge = Judge({("niah", 2048): "counts", ("vt", 2048): "counts"}, "other samples")

    def tried(words: str, niah: float, vt: float) -> Tried:
        name, _, others = words.partition(":")
        asked = f"{name}:ratio=0.8" + ("," + others if others else "")
        return Tried(words, 0.8, [*rows_of(asked, niah), *rows_of(asked, vt, task="vt")], 0.25)

    methods = [tried("kvzap", 0.5, 1.0), tried("kvzap:allocator=lukv", 0.75, 0.9), tried("knorm", 0.1, 0.1)]
    exact = [*rows_of("exact", 1.0), *rows_of("exact", 1.0, task="vt"), *rows_of("exact", 1.0, task="key_value")]
    text = page("m", exact, methods, judge, ("key_value",), ["m/composite.svg"])
    (line,) = (line for line in text.splitlines() if line.startswith("| `kvzap` | uniform"))
    assert "80%" in line
    assert "vt -10.0" in line
    assert "niah" not in line
    assert "Canary `key_value`, mean score; exact: 100.0." in text
    assert "| `knorm` | 0.2500 |" in text
    assert "![m/composite.svg]" in text
