"""A study of fusion, tiny: questions over documents, answered once in every way, told on a page, and judged."""

from __future__ import annotations

import dataclasses
import gzip
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import bench.fusion_study
import tiny
import tiny_decoder
from bench.claims import a3_quality
from bench.fusion_answers import Answers, digest_of, prepared
from bench.fusion_page import selectors_of, write_page
from bench.fusion_records import Records, directory_of, exact_match, f1, way_at
from bench.fusion_study import Plan, answer_all, expected
from bench.fusion_tasks import Question, all_tasks, cut, made_tasks
from bench.fusion_times import Times, read_times
from bench.side_by_side import JUDGE_SEED, SEED
from kvloom.eval.policy import EXACT
from kvloom.eval.records import RunStore
from kvloom.eval.subject import Subject
from kvloom.eval.task import TextLength
from kvloom.eval.tasks.scoring import first_line_contains
from kvloom.policy.fusion import parse_fusion
from tests.measure.study_rows import SETTINGS, rows_of

WAYS = ("reuse", "a3:ratio=0", "a3:ratio=0.15", "a3:ratio=0.3", "epic:ratio=0.15", "a3+epic:ratio=0.15", "recompute")


@dataclass(frozen=True)
class Toy:
    name: str = "toy"
    group: str = "toy"

    def questions(self, count: int, seed: int, text_length: TextLength) -> Iterator[Question]:
        for index in range(count):
            rng = random.Random(f"{self.name}/{seed}/{index}")
            texts = ["".join(rng.choices("abcdefghij", k=rng.randrange(20, 40))) for _ in range(3)]
            yield Question(
                index=index,
                opening="read: ",
                documents=tuple(texts),
                question=" what?",
                begins="it is",
                answers=(texts[0][:1],),
                max_new_tokens=4,
                about=texts[0],
            )

    def score(self, question: Question, output: str) -> float:
        return float(question.answers[0] in output)


TASKS = (Toy(), Toy("toy_2"))


def subject() -> Subject:
    return Subject("tiny", tiny.CharTokenizer(), tiny.make_engine(model=tiny_decoder.decoder((None,) * 3)))


def answers_in(place: Path, ways: tuple[str, ...] = WAYS) -> Answers:
    return Answers.of(subject(), place / "tiny", ways)


def test_it_is_whole_and_goes_on(tmp_path: Path) -> None:
    answers, plan = answers_in(tmp_path), Plan(TASKS, 5, WAYS, judged=6)
    assert expected(answers, plan).startswith("10 questions in 8 ways to go")
    answer_all(answers, plan)
    answers.subject.engine.check()
    records = Records(answers.place, WAYS)
    assert records.complete
    assert len(records.exact) == 10
    assert records.kl("recompute").mean < 1e-3 < records.kl("reuse").mean
    assert all(row.ttft_s == 0.0 for row in records.rows("reuse"))
    page = write_page("tiny", answers.place, WAYS).read_text(encoding="utf-8")
    assert page.count("`a3+epic`") >= 2
    assert "prefix caching" in page
    again = answers_in(tmp_path)
    assert expected(again, plan).startswith("0 questions")
    answer_all(again, plan)
    assert again.subject.engine.steps == 0
    assert write_page("tiny", answers.place, WAYS).read_text(encoding="utf-8") == page
    more = answers_in(tmp_path, (*WAYS, "prophetkv:ratio=0.15"))
    assert more.answer(TASKS[0], range(5)) == 5
    assert len(Records(more.place, ("prophetkv:ratio=0.15",)).exact) == 5


def test_a_document_has_the_same_tokens_in_every_prompt() -> None:
    question = next(Toy().questions(1, 0, len))
    it = prepared(question, subject(), None)
    texts = [subject().tokenizer.decode(it.tokens[start:stop]) for start, stop in it.documents]
    assert tuple(texts) == question.documents
    assert subject().tokenizer.decode(it.tokens[it.documents[-1][1] :]) == " what?it is"


def test_rows_of_other_code_are_another_run() -> None:
    found = {digest_of(parse_fusion(way)) for way in ("a3", "epic", "a3+epic", "reuse")}
    assert len(found) == 4
    assert digest_of(parse_fusion("a3:ratio=0.3")) in found


@pytest.mark.parametrize("task", made_tasks(), ids=lambda task: task.name)
def test_questions_are_made_again_and_can_be_answered(task) -> None:
    words = lambda text: len(text.split())  # noqa: E731
    found, again = (list(task.questions(count, 3, words)) for count in (3, 2))
    assert found[:2] == again
    for question in found:
        assert len(question.documents) > 1
        said = "".join(question.documents)
        assert all(answer in said for answer in question.answers)
        assert task.score(question, " ".join(question.answers)) == 1.0
        assert task.score(question, "nothing at all") == 0.0


def test_what_a_question_needs_lies_in_two_documents() -> None:
    tasks = {task.name: task for task in made_tasks()}
    for question in tasks["referent"].questions(4, 0, len):
        thing = question.begins.split("about the ")[1].split(" is")[0]
        at = next(n for n, text in enumerate(question.documents) if f"about the {thing}." in text)
        assert question.answers[0] in question.documents[at + 1]
        assert question.answers[0] not in question.documents[at]
    for question in tasks["two_hops"].questions(4, 0, len):
        owners, _, rooms = question.documents
        assert question.answers[0] in rooms
        assert question.answers[0] not in owners


def test_a_cut_text_is_whole() -> None:
    text = "One is here. Two! Is it three?\nFour 4.5 is a number.\n\nFive has no end"
    pieces = list(cut(text, 4, lambda piece: len(piece.split())))
    assert "".join(pieces) == text
    assert len(pieces) > 2
    assert all(len(piece.split()) >= 4 for piece in pieces[:-1])


def test_passages_are_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "nq.jsonl.gz"
    lines = []
    for n in range(6):
        context = {"title": f"T{n}", "text": f"the text of {n} says answer{n}", "hasanswer": True, "isgold": True}
        lines.append(json.dumps({"question": f"what says {n}", "answers": [f"answer{n}"], "ctxs": [context]}))
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    task = next(task for task in all_tasks(path) if task.name == "gold_and_3")
    for question in task.questions(5, 0, len):
        assert len(question.documents) == 4
        assert sum(question.answers[0] in text for text in question.documents) == 1
        assert first_line_contains(f" It is {question.answers[0]}.\nMore", question.answers) == 1.0
    golds = [
        [question.answers[0] in text for text in question.documents].index(True)
        for question in task.questions(5, 0, len)
    ]
    assert len(set(golds)) > 2


def test_words_of_answers_are_compared() -> None:
    (row, *_) = rows_of("exact", 1.0)
    it = dataclasses.replace(row, output=" The Cat.\nand more", answers=("a cat", "dogs"))
    assert exact_match(it) == 1.0
    assert f1(it) == 1.0
    assert f1(dataclasses.replace(it, output="black cat")) == pytest.approx(2 / 3)
    assert exact_match(dataclasses.replace(it, output="black cat")) == 0.0


def test_ways_stand_for_others() -> None:
    assert way_at("epic", 0.0) == way_at("prophetkv", 0.0) == "reuse"
    assert way_at("cacheblend", 0.0) == way_at("a3", 0.0) == "a3:ratio=0"
    assert way_at("a3", 1.0) == "recompute"
    assert way_at("a3", 0.15) == "a3:ratio=0.15"
    assert selectors_of(WAYS) == ["a3", "epic", "a3+epic"]


def test_times_are_kept_beside_answers(tmp_path: Path) -> None:
    assert read_times(tmp_path) is None
    times = Times("m", "now", 256, 5, {"a3": {"1024, RAM": 0.5}, "full": {"1024, RAM": 1.0, "1024, disk": 2.0}})
    (tmp_path / "times.json").write_text(json.dumps(dataclasses.asdict(times)))
    found = read_times(tmp_path)
    assert found == times
    assert found.cells("a3") == ["500", "-"]
    page = write_page("m", tmp_path, ("reuse",)).read_text(encoding="utf-8")
    assert "| `full` | 1000 | 2000 |" in page


def filed(place: Path, scores: dict[str, float]) -> Records:
    for way, right in scores.items():
        fusion = None if way == "exact" else parse_fusion(way)
        for seed in (SEED, JUDGE_SEED) if fusion is None else (SEED,):
            rows = rows_of("exact", right, seed)
            policy = EXACT.name if fusion is None else fusion.name
            settings = dataclasses.replace(SETTINGS, policy=policy, seed=seed)
            with RunStore(directory_of(place, fusion, seed), settings) as store:
                for row in rows:
                    store.append(dataclasses.replace(row, settings=settings, kl=1 - right))
    return Records(place, tuple(way for way in scores if way != "exact"))


@pytest.mark.parametrize(
    ("ours", "other", "holds"), [(1.0, 0.9, True), (0.9, 0.8, False), (1.0, 1.0, True), (0.975, 1.0, False)]
)
def test_the_claim_is_judged_from_records(tmp_path: Path, ours: float, other: float, holds: bool) -> None:
    scores = {"exact": 1.0, "a3:ratio=0.15": ours, "epic:ratio=0.15": other, "a3+epic:ratio=0.15": 1.0}
    found = list(a3_quality.checks(filed(tmp_path, scores)))
    assert len(found) == 2
    assert all(check.holds for check in found) is holds


def test_missing_records_are_no_quality(tmp_path: Path) -> None:
    assert [check.holds for check in a3_quality.checks(Records(tmp_path, WAYS))] == [False]
    filed(tmp_path, {"exact": 1.0, "a3:ratio=0.15": 1.0})
    assert [check.holds for check in a3_quality.checks(Records(tmp_path, WAYS))] == [False]


def test_unknown_tasks_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.fusion_study.main(["--place", str(tmp_path), "--task", "nothing"]) == 2
    assert "there are" in capsys.readouterr().err
