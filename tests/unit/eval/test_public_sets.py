"""Loaders of public sets on rows made by hand, and the authors' metrics on worked examples."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvloom.errors import ConfigError, DataFileError, EvalError
from kvloom.eval.public import FAMILIES, load_family
from kvloom.eval.public import metrics as m
from kvloom.eval.public.base import without_middle
from kvloom.eval.task import Sample

UUID = "0123abcd-0123-4567-89ab-0123456789ab"
TEXT = " ".join(f"word{n}" for n in range(300))


def words(text: str) -> int:
    return len(text.split())


def samples(family: str, part: str, path: Path, length: int = 1600) -> list[Sample]:
    (task,) = load_family(family, part, path)
    return list(task.samples(length=length, count=50, seed=1, text_length=words))


def lines(path: Path, *rows: dict) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


LONGBENCH = {"context": TEXT, "input": "Who?", "answers": ["Ada", "Ada L"], "all_classes": ["Ada", "Bob"]}
V2 = {
    "context": TEXT,
    "question": "Which?",
    "choice_A": "x",
    "choice_B": "y",
    "choice_C": "z",
    "choice_D": "w",
    "answer": "C",
    "length": "short",
    "difficulty": "easy",
    "domain": "d",
}
INFINITE = {"context": TEXT, "input": "What?", "answer": ["beta"], "options": ["alpha", "beta", "gamma", "delta"]}
LOOGLE = {"input": TEXT, "qa_pairs": "[{'Q': 'one?', 'A': 'yes'}, {'Q': 'two?', 'A': 'no'}]", "output": "none"}
HUNDRED = {"new_context": TEXT, "instruction": "Do.", "input": ["a?", "b?"], "answers": [["1"], 2]}
OOLONG = {
    "context_window_text": TEXT,
    "question": "How many?",
    "answer": "[7]",
    "answer_type": "ANSWER_TYPE.NUMERIC",
    "task_group": "counting",
}


@pytest.mark.parametrize(
    ("family", "part", "file", "row", "answers", "reply", "score"),
    [
        ("longbench", "hotpotqa", "hotpotqa.jsonl", LONGBENCH, [("Ada", "Ada L")], "the Ada!", 1.0),
        ("longbench", "trec", "data/trec.jsonl", LONGBENCH, [("Ada", "Ada L")], "Ada or Bob\nx", 0.5),
        ("longbench_v2", "short", "data.json", V2, [("C",)], "The correct answer is (C)", 1.0),
        ("infinitebench", "longbook_choice_eng", "longbook_choice_eng.jsonl", INFINITE, [("beta", "B")], "B", 1.0),
        ("infinitebench", "longbook_qa_eng", "longbook_qa_eng.jsonl", INFINITE, [("beta",)], "beta wave", 2 / 3),
        ("hundred_longbench", "passage_count", "passage_count.jsonl", HUNDRED, [("1",), ("2",)], "\n2 of them", 1.0),
        ("oolong_public", "counting", "test.jsonl", OOLONG, [("7",)], "Answer: 5", 0.75**2),
    ],
)
def test_rows_become_samples(tmp_path: Path, family, part, file, row, answers, reply, score) -> None:
    lines(tmp_path / file, row)
    made = samples(family, part, tmp_path)
    assert sorted(each.turns[0].answers for each in made) == answers
    (task,) = load_family(family, part, tmp_path)
    assert all(each.task == f"{family}/{part}" for each in made)
    assert all("word0 word1" in each.context and "{" not in each.turns[0].question for each in made)
    assert max(task.score(each, 0, reply) for each in made) == pytest.approx(score)


def test_loogle_makes_one_sample_per_question_of_one_context(tmp_path: Path) -> None:
    lines(tmp_path / "shortdep_qa.jsonl", LOOGLE)
    made = samples("loogle", "shortdep_qa", tmp_path)
    assert {each.turns[0].answers[0] for each in made} == {"yes", "no"}
    assert made[0].context == made[1].context
    cloze = LOOGLE | {"qa_pairs": "[{'Q': '<mask-0> met <mask-1>', 'A': {'<mask-0>': 'Ada L', '<mask-1>': 'Bob'}}]"}
    lines(tmp_path / "shortdep_cloze.jsonl", cloze)
    (masked,) = samples("loogle", "shortdep_cloze", tmp_path)
    (task,) = load_family("loogle", "shortdep_cloze", tmp_path)
    assert task.score(masked, 0, "{'<mask-0>': 'Ada', '<mask-1>': 'Eve'}") == 0.5
    assert task.score(masked, 0, "Ada and Bob") == 0.0
    lines(tmp_path / "longdep_summarization.jsonl", LOOGLE | {"qa_pairs": "none", "output": "short"})
    assert samples("loogle", "longdep_summarization", tmp_path)[0].turns[0].answers == ("short",)


def test_nolima_plants_its_needle_after_the_cut(tmp_path: Path) -> None:
    group = {
        "id": "g",
        "needle": "{CHAR} lives by the {1}.",
        "questions": {"onehop": "Who has been to {2}?"},
        "character_set": ["Ada", "Bob", "Cyd"],
        "tests": {"t": {"input_args": ["tower", "Paris"]}},
    }
    (tmp_path / "needlesets").mkdir()
    (tmp_path / "needlesets" / "needle_set.json").write_text(json.dumps([group]))
    (tmp_path / "haystack" / "shuffled").mkdir(parents=True)
    (tmp_path / "haystack" / "shuffled" / "book.txt").write_text("\n".join(f"line {n} of a book" for n in range(900)))
    made = samples("nolima_public", "onehop", tmp_path, length=500)
    assert len(made) == 26
    for sample in made:
        name, depth = sample.turns[0].answers[0], sample.facts["depth"]
        needle = f"{name} lives by the tower."
        assert sample.turns[0].question == "\n\nQuestion: Who has been to Paris?\n"
        assert sample.answer_begins(0) == "Answer:"
        assert len(sample.context.partition(needle)[2].split()) > 30  # a needle at the very end is easily kept
        assert abs(sample.context.index(needle) / (len(sample.context) - 200) - depth) < 0.1
        assert words(sample.context) + words(sample.turns[0].question) + 32 <= 500
    assert samples("nolima_public", "twohop", tmp_path) == []


@given(st.integers(1, 80), st.integers(0, 120))
def test_only_the_middle_goes(room: int, count: int) -> None:
    text = " ".join(f"w{n}" for n in range(count))
    cut = without_middle(text, room, words)
    assert words(cut) <= room
    if words(text) <= room:
        assert cut == text
    else:
        assert words(cut) >= 0.9 * room - 3
        half = len(cut) // 2
        assert text.startswith(cut[:half])
        assert text.endswith(cut[half:])


def test_a_text_that_fits_stays_whole_however_many_characters_its_tokens_have() -> None:
    text = " ".join(f"incomprehensibilities{n}" for n in range(201))
    assert len(text) > 8 * 2 * 201
    assert without_middle(text, 201, words) == text
    assert 150 <= words(without_middle(text, 160, words)) <= 160
    assert without_middle(text, 1, words).count(" ") == 0


def test_questions_about_one_text_name_one_document(tmp_path: Path) -> None:
    """However the text is cut, and in whichever task it is."""
    long = LONGBENCH | {"input": "Who was it that did all this?"}
    other = LONGBENCH | {"context": TEXT + " end"}
    lines(tmp_path / "hotpotqa.jsonl", LONGBENCH, long, other)
    lines(tmp_path / "qasper.jsonl", LONGBENCH)
    made = samples("longbench", "hotpotqa", tmp_path, length=200)
    first, second, third = sorted(made, key=lambda sample: sample.index)
    assert first.context != second.context
    assert first.document == second.document != third.document
    assert samples("longbench", "qasper", tmp_path)[0].document == first.document


def test_texts_that_go_on_are_no_chat_and_answers_begin_apart(tmp_path: Path) -> None:
    for part in ("trec", "hotpotqa", "lcc"):
        lines(tmp_path / f"{part}.jsonl", LONGBENCH)
    shown, asked, code = (samples("longbench", part, tmp_path)[0] for part in ("trec", "hotpotqa", "lcc"))
    assert (shown.chat, asked.chat, code.chat) == (False, True, False)
    assert (asked.turns[0].question[-5:], asked.answer_begins(0)) == ("Who?\n", "Answer:")
    assert (code.turns[0].question, code.answer_begins(0)) == ("\n", "")


def test_numbers_with_a_token_for_every_digit_have_room() -> None:
    (task,) = load_family("infinitebench", "math_find", None)
    assert task.max_new_tokens >= len(" 5999.5")


def test_malformed_data_names_the_line(tmp_path: Path) -> None:
    path = lines(tmp_path / "hotpotqa.jsonl", LONGBENCH, LONGBENCH)
    path.write_text(path.read_text() + '{"context": \n')
    with pytest.raises(DataFileError, match=r"hotpotqa.jsonl`, line 3: not JSON"):
        samples("longbench", "hotpotqa", path)
    lines(path, LONGBENCH, {"context": "x"})
    with pytest.raises(DataFileError, match="line 2: malformed row: no field 'input'"):
        samples("longbench", "hotpotqa", tmp_path)
    lines(tmp_path / "data.jsonl", V2 | {"answer": "E"})
    with pytest.raises(DataFileError, match="line 1: malformed row: answer 'E' is not a letter"):
        samples("longbench_v2", "short", tmp_path)
    with pytest.raises(DataFileError, match=r"holds no file `qasper.jsonl`"):
        samples("longbench", "qasper", tmp_path)
    (tmp_path / "trec.jsonl").write_text("")
    with pytest.raises(DataFileError, match="holds no rows"):
        samples("longbench", "trec", tmp_path)
    with pytest.raises(DataFileError, match="needlesets"):
        samples("nolima_public", "onehop", tmp_path)


def test_packed_files_and_lists_are_read(tmp_path: Path) -> None:
    (tmp_path / "hotpotqa.jsonl.gz").write_bytes(gzip.compress(json.dumps(LONGBENCH).encode()))
    assert len(samples("longbench", "hotpotqa", tmp_path)) == 1
    (tmp_path / "data.json").write_text(json.dumps([V2, V2 | {"length": "long"}]))
    assert len(samples("longbench_v2", "long", tmp_path)) == 1


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(EvalError, match="needs the package `datasets`") as error:
        list(load_family("longbench", "qasper", None)[0].samples(length=900, count=1, seed=1, text_length=words))
    assert error.value.hint is not None
    assert "--data" in error.value.hint
    for family in ("nolima_public", "hundred_longbench"):
        with pytest.raises(EvalError, match="local copy only"):
            load_family(family, None, None)[0].read()
    with pytest.raises(EvalError, match="`longbench` has no part `x`"):
        load_family("longbench", "x", None)
    lines(tmp_path / "narrativeqa.jsonl", LONGBENCH)
    with pytest.raises(ConfigError, match="alone take 145 of 150 tokens"):
        samples("longbench", "narrativeqa", tmp_path, length=150)


def test_sets_come_from_the_hub_too(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(repository: str, name: str | None, *, split: str) -> list[dict]:
        asked.append((repository, name, split))
        if split == "train":
            raise OSError("no network")
        return [LONGBENCH]

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    (task,) = load_family("longbench", "musique", None)
    for _ in range(2):
        assert len(list(task.samples(length=900, count=5, seed=1, text_length=words))) == 1
    assert asked == [("THUDM/LongBench", "musique", "test")]  # once: then it is kept
    with pytest.raises(EvalError, match="cannot load `THUDM/LongBench-v2` from the hub: no network"):
        load_family("longbench_v2", "short", None)[0].read()


def test_all_families_have_parts() -> None:
    assert sum(len(load_family(name, None, None)) for name in FAMILIES) == 21 + 3 + 12 + 4 + 2 + 8 + 3


@pytest.mark.parametrize(
    ("metric", "output", "answer", "score"),
    [
        (m.share_of_numbers, "Paragraph 3, not 4 or 3", "Paragraph 3", 2 / 3),
        (m.share_of_numbers, "none", "5", 0.0),
        (m.first_number, " 12345, or 6", "12345", 1.0),
        (m.first_number, "x", "1", 0.0),
        (m.first_value, "is 3.0.", "3", 1.0),
        (m.first_value, "about 31", "3", 0.0),
        (m.right_prefix, "[1, 3, 9, 4]", "[1, 3, -1, 4]", 0.5),
        (m.right_prefix, "1 3 1 4 5", "[1, 3, 1, 4]", 1.0),
        (m.right_prefix, "1", "[1, 3]", 0.5),
        (m.last_word_number, "The value is: -7.", "-7", 1.0),
        (m.last_word_number, "7 it is", "7", 0.0),
        (m.word_among, 'the "abc".', "abc", 1.0),
        (m.word_among, "abcd", "abc", 0.0),
        (m.stated_option, "**The correct answer is B**", "B", 1.0),
        (m.stated_option, "B", "B", 0.0),
        (m.last_uuid, f"{UUID[::-1]} then {UUID}", UUID, 1.0),
        (m.code_similarity, "\n# comment\nreturn x\n", "return x", 1.0),
        (m.code_similarity, "return y", "return x", 0.88),
        (m.code_similarity, "```", "x", 0.0),
    ],
)
def test_metrics_of_one_answer(metric, output: str, answer: str, score: float) -> None:
    assert metric(output, answer) == pytest.approx(score)


@pytest.mark.parametrize(
    ("metric", "output", "answers", "facts", "score"),
    [
        (m.qa_f1, "The cat sat", ["a cat"], {}, 2 / 3),
        (m.qa_f1, "dog", ["cat", "hot dog"], {}, 2 / 3),
        (m.qa_f1, "", ["the"], {}, 0.0),
        (m.characters_f1, "北京！", ["北京市"], {}, 0.8),
        (m.contained, "It was Ada.", ["Ada"], {}, 1.0),
        (m.name_among, "maybe ada", ["ADA"], {}, 1.0),
        (m.qa_f1, "The", ["a"], {}, 0.0),
        (m.chosen_option, " C. because", ["x", "C"], {}, 1.0),
        (m.chosen_option, "A or rather C", ["x", "C"], {}, 1.0),
        (m.chosen_option, "A\nor C", ["x", "C"], {}, 0.0),
        (m.chosen_option, "So the answer is: D", ["x", "D"], {}, 1.0),
        (m.chosen_option, "the answer is B", ["x", "D"], {}, 0.0),
        (m.chosen_option, "the answer is the red hat", ["the red", "D"], {}, 1.0),
        (m.chosen_option, "the red hat", ["the red hat", "D"], {}, 1.0),
        (m.chosen_option, "I say B", ["x", "B"], {}, 1.0),
        (m.chosen_option, "nothing", ["x", "B"], {}, 0.0),
        (m.chosen_option, "", ["x", "B"], {}, 0.0),
        (m.chosen_bug, " B", ["run", "B"], {}, 1.0),
        (m.chosen_bug, "C", ["run", "B"], {}, 0.0),
        (m.chosen_bug, "the bug is: run", ["run", "B"], {}, 1.0),
        (m.chosen_bug, "Option: answer: `walk`", ["run", "B"], {}, 0.0),
        (m.chosen_bug, "run", ["run", "B"], {}, 1.0),
        (m.chosen_bug, "`run`", ["run", "B"], {}, 0.0),
        (m.chosen_bug, "Option B\nor A", ["run", "B"], {}, 1.0),
        (m.chosen_bug, "walk, not run", ["run", "B"], {}, 0.0),
        (m.classification, "city or state", ["city"], {"all_classes": ["city", "state", "river"]}, 0.5),
        (m.classification, "inner city", ["inner city"], {"all_classes": ["city", "inner city"]}, 1.0),
        (m.classification, "hill", ["city"], {"all_classes": ["city"]}, 0.0),
        (m.oolong_answer, "Label: spam", ["spam"], {}, 1.0),
        (m.oolong_answer, "x: it is more common than y, I think", ["more common than"], {}, 1.0),
        (m.oolong_answer, "Answer: 10", ["7"], {"answer_type": "ANSWER_TYPE.NUMERIC"}, 0.75**3),
        (m.oolong_answer, "Answer: ten", ["7"], {"answer_type": "ANSWER_TYPE.NUMERIC"}, 0.0),
        (m.oolong_answer, "there are a great many of them, 7", ["7"], {}, 1.0),
        (m.oolong_answer, "", ["7"], {}, 0.0),
    ],
)
def test_metrics_of_several_answers(metric, output: str, answers: list[str], facts: dict, score: float) -> None:
    assert metric(output, answers, facts) == pytest.approx(score)


def test_dates_are_compared_as_days() -> None:
    pytest.importorskip("dateutil")
    facts = {"answer_type": "ANSWER_TYPE.DATE"}
    assert m.oolong_answer("Date: March 5, 2024", ["2024-03-05"], facts) == 1.0
    assert m.oolong_answer("Date: March 6, 2024", ["2024-03-05"], facts) == 0.0
    assert m.oolong_answer("Date: never", ["2024-03-05"], facts) == 0.0


def test_rouge_is_that_of_the_packages() -> None:
    pytest.importorskip("rouge")
    assert m.rouge_l("the cat sat", "the cat ran") == pytest.approx(2 / 3, abs=1e-6)
    assert m.rouge_l_recall("the cat", "the cat sat on") == pytest.approx(0.5)
    assert m.rouge_l("", "x") == 0.0


def test_rouge_lsum_is_that_of_the_package() -> None:
    pytest.importorskip("rouge_score")
    assert m.rouge_l_sum("a b c\nd e", "a b x\nd e") == pytest.approx(0.8)


def test_chinese_words_come_from_jieba() -> None:
    pytest.importorskip("jieba")
    assert m.chinese_f1("我来到北京清华大学。", ["我来到北京清华大学"], {}) == 1.0
    assert 0 < m.rouge_l_chinese("我来到北京", "我来到上海") < 1
