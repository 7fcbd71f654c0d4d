"""The structure of RULER's tasks, as its authors describe it."""

from __future__ import annotations

import re
import uuid
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from kvloom.errors import EvalError
from kvloom.eval.task import Sample
from kvloom.eval.tasks import TASKS, TaskFiles, make_tasks
from kvloom.eval.tasks.filler import AFTER, NOISE
from kvloom.eval.tasks.material import Material
from kvloom.eval.tasks.niah import DEPTHS
from offline_tasks import samples_of, word_count, write_files

NEEDLE = re.compile(r"(?:The|One) magic (number|uuid) of (\S+) is (\S+)\.")


def sample_of(name: str, length: int = 2048) -> Sample:
    return samples_of(TASKS[name], length, 1)[0]


@pytest.mark.parametrize(
    ("name", "keys", "needles", "answers", "kind"),
    [
        ("niah_single_1", 1, 1, 1, "number"),
        ("niah_single_2", 1, 1, 1, "number"),
        ("niah_single_3", 1, 1, 1, "uuid"),
        ("niah_multikey_1", 4, 4, 1, "number"),
        ("niah_multivalue", 1, 4, 4, "number"),
        ("niah_multiquery", 4, 4, 4, "number"),
    ],
)
def test_needles_in_filler(name: str, keys: int, needles: int, answers: int, kind: str) -> None:
    sample = sample_of(name)
    found = NEEDLE.findall(sample.context)
    assert (len({key for _, key, _ in found}), len(found), len(sample.turns[0].answers)) == (keys, needles, answers)
    assert {what for what, _, _ in found} == {kind}
    assert sample.turns[0].max_new_tokens == 128


@pytest.mark.parametrize(("name", "kind"), [("niah_multikey_2", "number"), ("niah_multikey_3", "uuid")])
def test_needles_among_needles(name: str, kind: str) -> None:
    found = NEEDLE.findall(sample_of(name, 4096).context)
    assert len({key for _, key, _ in found}) == len(found) > 30
    assert {what for what, _, _ in found} == {kind}


def test_values_have_the_form_that_is_promised() -> None:
    (number,), (identifier,) = sample_of("niah_single_2").turns[0].answers, sample_of("niah_single_3").turns[0].answers
    assert re.fullmatch(r"\d{7}", number)
    assert uuid.UUID(identifier).version == 4


def test_noise_and_prose() -> None:
    assert sample_of("niah_single_1").context.count(NOISE[0]) > 50
    assert NOISE[0] not in sample_of("niah_single_2").context


@pytest.mark.parametrize("name", ["niah_single_1", "niah_single_2", "niah_multivalue", "niah_multiquery"])
def test_without_its_needles_a_text_does_not_hold_the_answer(name: str) -> None:
    for sample in samples_of(TASKS[name], 1024, 5):
        text = NEEDLE.sub("", sample.context)
        assert not any(answer in text for answer in sample.turns[0].answers)


def test_a_grid_needle_is_at_its_depth() -> None:
    samples = samples_of(TASKS["niah"], 1024, 2 * len(DEPTHS))
    for sample in samples:
        hay = sample.context.partition("\n\n")[2]
        before, _, after = hay.partition(sample.facts["needles"][0])
        words = len(before.split()) / (len(before.split()) + len(after.split()) - AFTER)
        assert sample.facts["depth"] - 0.06 < words <= sample.facts["depth"]
        assert len(after.split()) >= AFTER
    assert Counter(sample.facts["depth"] for sample in samples) == dict.fromkeys(DEPTHS, 2)


def test_a_chain_has_four_hops_in_order() -> None:
    sample = sample_of("vt")
    text = sample.context.rpartition("Track the assignments.")[2]
    value = sample.facts["value"]
    names = sample.facts["chain"]
    wanted = [f"{names[0]} = {value}", *(f"{b} = VAR {a}" for a, b in pairwise(names))]
    assert re.findall(r"VAR (.*)", text) == wanted
    assert len(set(names)) == 5 == len(sample.turns[0].answers)
    assert "Answer: The 5 variables" in sample.context.removesuffix(text)


@pytest.mark.parametrize(("length", "often", "seldom"), [(2048, 6, 1), (6000, 30, 3)])
def test_common_words_are_common(length: int, often: int, seldom: int) -> None:
    sample = sample_of("cwe", length)
    text = sample.context.rpartition("remember those.")[2]
    counts = Counter(re.findall(r"\d+\. (\S+)", text))
    assert {counts[word] for word in sample.turns[0].answers} == {often}
    assert {count for word, count in counts.items() if word not in sample.turns[0].answers} == {seldom}
    assert len(sample.turns[0].answers) == 10


@pytest.mark.parametrize("length", [1024, 6000, 40_000])
def test_common_words_look_like_all_others(length: int) -> None:
    """Words with a hyphen among the rare ones alone, and none among those asked for, would give these away."""
    rare, common = Counter(), Counter()
    for sample in samples_of(TASKS["cwe"], length, 12 if length < 9000 else 2):
        text = sample.context.rpartition("remember those.")[2]
        asked = set(sample.turns[0].answers)
        common.update("-" in word for word in asked)
        rare.update("-" in word for word in set(re.findall(r"\d+\. (\S+)", text)) - asked)
    assert abs(common[True] / common.total() - rare[True] / rare.total()) < 0.25
    assert length > 9000 or rare[True] == 0


@pytest.mark.parametrize("name", [*(name for name in TASKS if TASKS[name].group == "ruler"), "qa_1"])
@pytest.mark.parametrize("wording", ["own", "ruler"])
@pytest.mark.parametrize("haystack", ["annals", "essays"])
def test_every_material_can_be_solved(tmp_path: Path, name: str, wording: str, haystack: str) -> None:
    task = make_tasks(write_files(tmp_path), Material(wording, haystack))[name]
    for sample in samples_of(task, 1024, 2):
        assert task.score(sample, 0, task.solve(sample, 0)) == 1.0
        longest = word_count(sample.context + sample.turns[0].question + sample.answer_begins(0))
        assert 0.98 * 1024 <= longest + sample.turns[0].max_new_tokens < 1024


@pytest.mark.parametrize("name", ["niah", "babilong_qa3", "nolima_one_hop", "nolima_two_hop", "multi_turn"])
def test_other_tasks_can_be_solved_in_essays_too(name: str) -> None:
    task = make_tasks(TaskFiles(), Material(haystack="essays"))[name]
    for sample in samples_of(task, 1024, 4):
        assert all(task.score(sample, n, task.solve(sample, n)) == 1.0 for n in range(len(sample.turns)))


def test_longer_needles_are_fewer() -> None:
    counts = [
        samples_of(make_tasks(TaskFiles(), Material(wording))["niah_multikey_2"], 4096, 1)[0].context.count("magic ")
        for wording in ("own", "ruler")
    ]
    assert counts[1] < 0.9 * counts[0]


def test_unknown_material_is_refused() -> None:
    with pytest.raises(EvalError, match="unknown wording `theirs`"):
        Material("theirs")
    with pytest.raises(EvalError, match="unknown haystack `book`"):
        Material("own", "book")


@pytest.mark.parametrize("length", [*range(160, 260, 10), 1024, 8192])
def test_coded_words_follow_zipf(length: int) -> None:
    for sample in samples_of(TASKS["fwe"], length, 3):
        words = sample.context.partition("\n\n")[2].split()
        counts = Counter(word for word in words if word != "...").most_common()
        assert {word for word, _ in counts[:3]} == set(sample.turns[0].answers)
        assert all(count < counts[2][1] for _, count in counts[3:])
        assert words.count("...") == pytest.approx(6 / 3.14159**2 * sample.facts["words"], abs=2)
