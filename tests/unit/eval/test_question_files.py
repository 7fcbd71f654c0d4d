"""Question files: their three forms, and what is wrong with bad ones."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kvloom.errors import ConfigError, DataFileError
from kvloom.eval.tasks import make_tasks
from kvloom.eval.tasks.documents import GOLD_POSITIONS, multi_document_qa
from kvloom.eval.tasks.qa_files import Item, Passage, QaSet, Reader, read_hotpot, read_open_questions, read_squad
from offline_tasks import samples_of, write_files

ROW = {"question": "q", "answers": ["a"], "ctxs": [{"title": "t", "text": "x"}]}


def written(folder: Path, content: Any) -> Path:
    path = folder / "questions.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_squad(tmp_path: Path) -> None:
    qas = [
        {"question": "Who?", "answers": [{"text": "Ada"}, {"text": "Ada"}], "id": "1"},
        {"question": "Why?", "answers": [], "is_impossible": True},
    ]
    path = written(tmp_path, {"data": [{"title": "T", "paragraphs": [{"context": "Ada did.", "qas": qas}]}]})
    gold = Passage("T", "Ada did.")
    assert read_squad(path) == QaSet((Item("Who?", ("Ada",), (gold,)),), (gold,))


def test_hotpot(tmp_path: Path) -> None:
    row = {
        "question": "Which?",
        "answer": "yes",
        "supporting_facts": [["B", 0]],
        "context": [["A", ["One. ", "Two."]], ["B", ["Three."]]],
    }
    found = read_hotpot(written(tmp_path, [row]))
    assert found.items == (Item("Which?", ("yes",), (Passage("B", "Three."),)),)
    assert found.passages == (Passage("A", "One. Two."), Passage("B", "Three."))


def test_open_questions_plain_and_gzipped(tmp_path: Path) -> None:
    marked = {**ROW, "ctxs": [{"title": "no", "text": "n"}, {"title": "yes", "text": "y", "isgold": True}]}
    lines = "\n".join([json.dumps(ROW), "", json.dumps(marked)])
    plain = written(tmp_path, lines)
    packed = tmp_path / "questions.jsonl.gz"
    packed.write_bytes(gzip.compress(lines.encode()))
    assert read_open_questions(plain) == read_open_questions(packed)
    assert [item.gold for item in read_open_questions(plain).items] == [(Passage("t", "x"),), (Passage("yes", "y"),)]


@pytest.mark.parametrize(
    ("read", "content", "fault"),
    [
        (read_squad, '{"data": [\n{,}]}', r"line 2: not JSON"),
        (read_squad, {"rows": []}, r"no field 'data'"),
        (read_squad, {"data": []}, r"has no question with an answer"),
        (read_squad, {"data": [{"paragraphs": [{"context": 3, "qas": []}]}]}, r"3 is not a string"),
        (read_hotpot, {"data": []}, r"not in the expected form"),
        (read_hotpot, [{"question": "q", "context": [["t"]]}], r"not in the expected form"),
        (read_open_questions, json.dumps(ROW) + "\n{", r"line 2: not JSON"),
        (read_open_questions, json.dumps(ROW) + '\n\n{"question": "q"}', r"line 3: no field 'ctxs'"),
        (read_open_questions, json.dumps({**ROW, "ctxs": []}), r"line 1: not in the expected form"),
        (read_open_questions, "\n", r"has no question with an answer"),
    ],
)
def test_bad_files(tmp_path: Path, read: Reader, content: Any, fault: str) -> None:
    path = written(tmp_path, content)
    with pytest.raises(DataFileError, match=fault) as caught:
        read(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (None, "cannot be read: No such file"),
        (b"not gzip", "cannot be read: Not a gzipped file"),
        (gzip.compress(b"{}" * 999)[:-9], "cut off"),
        (gzip.compress(b"\xff"), "not UTF-8"),
    ],
)
def test_unreadable_files(tmp_path: Path, data: bytes | None, fault: str) -> None:
    path = tmp_path / "questions.jsonl.gz"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(DataFileError, match=fault):
        read_open_questions(path)


def test_files_are_read_only_when_a_sample_is_made(tmp_path: Path) -> None:
    files = write_files(tmp_path)
    assert files.squad is not None
    files.squad.unlink()
    task = make_tasks(files)["qa_1"]
    with pytest.raises(DataFileError, match="cannot be read"):
        samples_of(task, 1024, 1)


@pytest.mark.parametrize("name", ["qa_1", "qa_2", "multidoc_qa"])
def test_a_file_that_is_too_small_for_a_length_says_so(tmp_path: Path, name: str) -> None:
    task = make_tasks(write_files(tmp_path, count=5))[name]
    with pytest.raises(ConfigError, match=rf"task `{name}` has material for only \d+ tokens, got 9000"):
        samples_of(task, 9000, 1)


def load(tmp_path: Path) -> Callable[[], QaSet]:
    path = write_files(tmp_path).open_questions
    assert path is not None
    return lambda: read_open_questions(path)


def test_the_gold_document_stands_where_it_should(tmp_path: Path) -> None:
    for sample in samples_of(multi_document_qa(load(tmp_path)), 1024, 5):
        (place,) = sample.facts["gold"]
        documents = sample.context.count("Document ")
        assert sample.facts["position"] == GOLD_POSITIONS[sample.index]
        assert place - 1 == round(sample.facts["position"] * (documents - 1))
    last = multi_document_qa(load(tmp_path), positions=(1.0,))
    assert all(sample.facts["position"] == 1.0 for sample in samples_of(last, 1024, 3))


def test_no_other_document_holds_the_answer(tmp_path: Path) -> None:
    for sample in samples_of(multi_document_qa(load(tmp_path)), 2048, 5):
        assert sample.context.count(sample.turns[0].answers[0]) == 1
