"""What holds for every offline task: it can be solved, from its text alone, and it has the length that it promises."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from kvloom.errors import ConfigError
from kvloom.eval.corpus import shipped_corpus
from kvloom.eval.task import Sample, Task
from kvloom.eval.tasks import FILE_TASKS, TASKS, TaskFiles, make_tasks
from kvloom.eval.tasks.filler import Haystack, noise
from offline_tasks import names, samples_of, word_count, write_files

ALL = pytest.mark.parametrize("name", names())
LENGTHS = pytest.mark.parametrize("length", [1024, 4096])
COUNT = 4


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Task]:
    return make_tasks(write_files(tmp_path_factory.mktemp("questions")))


def scores(task: Task, sample: Sample, answer: Callable[[int], str]) -> list[float]:
    return [task.score(sample, turn, answer(turn)) for turn in range(len(sample.turns))]


def filler_only(sample: Sample) -> Sample:
    """The sample without what matters in it: prose and noise alone."""
    prose = " ".join(Haystack(shipped_corpus(), 7).sentences(sample.length))
    return dataclasses.replace(sample, context=prose + noise(50))


@ALL
@LENGTHS
def test_the_oracle_solves_every_sample(tasks: dict[str, Task], name: str, length: int) -> None:
    task = tasks[name]
    for sample in samples_of(task, length, COUNT):
        assert scores(task, sample, lambda turn, sample=sample: task.solve(sample, turn)) == [1.0] * len(sample.turns)


@ALL
def test_who_sees_only_filler_scores_nothing(tasks: dict[str, Task], name: str) -> None:
    task = tasks[name]
    for sample in samples_of(task, 1024, COUNT):
        blind = filler_only(sample)
        assert scores(task, sample, lambda turn, blind=blind: task.solve(blind, turn)) == [0.0] * len(sample.turns)


@ALL
def test_neither_silence_nor_an_echo_of_the_question_scores(tasks: dict[str, Task], name: str) -> None:
    task = tasks[name]
    for sample in samples_of(task, 1024, COUNT):
        echoes = [" ".join(turn.question.split()) + sample.answer_begins(n) for n, turn in enumerate(sample.turns)]
        assert max(scores(task, sample, lambda turn: "")) == 0.0
        assert max(scores(task, sample, echoes.__getitem__)) < 0.01


@ALL
@LENGTHS
def test_the_length_is_within_two_percent_and_never_over(tasks: dict[str, Task], name: str, length: int) -> None:
    for sample in samples_of(tasks[name], length, COUNT):
        longest = max(
            word_count(sample.context + turn.question + sample.answer_begins(n)) + turn.max_new_tokens
            for n, turn in enumerate(sample.turns)
        )
        assert 0.98 * length <= longest < length


@ALL
def test_samples_depend_on_the_seed_and_not_on_the_count(tasks: dict[str, Task], name: str) -> None:
    few, many = samples_of(tasks[name], 1024, 2), samples_of(tasks[name], 1024, 3)
    assert many[:2] == few
    assert len({sample.context for sample in many}) == 3
    assert samples_of(tasks[name], 1024, 1, seed=2)[0].context != few[0].context


@ALL
def test_samples_say_who_they_are(tasks: dict[str, Task], name: str) -> None:
    first, second = samples_of(tasks[name], 1024, 2)
    assert (tasks[name].name, first.task, first.index, second.index) == (name, name, 0, 1)
    assert first.length == 1024
    assert tasks[name].group


@ALL
def test_contexts_and_questions_meet_at_white_space(tasks: dict[str, Task], name: str) -> None:
    for sample in samples_of(tasks[name], 1024, 2):
        assert sample.context == sample.context.rstrip()
        for n, turn in enumerate(sample.turns):
            begins = sample.answer_begins(n)
            assert begins == begins.rstrip(" ")
            assert turn.question.startswith("\n\n")
            assert turn.question.endswith("\n") or not begins  # how an answer begins is not a part of the question


@ALL
def test_a_length_that_is_too_small_is_refused(tasks: dict[str, Task], name: str) -> None:
    with pytest.raises(ConfigError, match=rf"task `{name}` needs at least \d+ tokens, got 20"):
        samples_of(tasks[name], 20, 1)


@pytest.mark.parametrize("name", ["niah", "niah_single_2", "babilong_qa1", "nolima_one_hop", "multi_turn"])
def test_filler_comes_from_the_text_that_the_user_names(tmp_path: Path, name: str) -> None:
    path = tmp_path / "book.txt"
    path.write_text("".join(f"Whale number {n} dived. Mary hid it in the kitchen. " for n in range(40)))
    task = make_tasks(TaskFiles(text=path))[name]
    for sample in samples_of(task, 1024, 2):
        assert sample.context.count("Whale number") > 50
        assert scores(task, sample, lambda turn, sample=sample: task.solve(sample, turn)) == [1.0] * len(sample.turns)
        assert "Mary hid" not in sample.context or not name.startswith("babilong")


def test_tasks_with_files_appear_when_the_file_is_named(tasks: dict[str, Task]) -> None:
    assert set(tasks) - set(TASKS) == set(FILE_TASKS)
    assert set(make_tasks(TaskFiles())) == set(TASKS)
    assert {field.name for field in dataclasses.fields(TaskFiles)} > set(FILE_TASKS.values())


def test_the_benchmarks_that_are_promised_are_there() -> None:
    groups = {task.group for task in TASKS.values()}
    assert groups == {
        "niah", "ruler", "babilong", "nolima", "longgen", "lost_in_the_middle", "multi_turn", "oolong",
    }  # fmt: skip
    assert sum(task.group == "ruler" for task in TASKS.values()) == 11
    assert sum(task.group == "babilong" for task in TASKS.values()) == 10
