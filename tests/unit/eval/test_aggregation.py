"""Oolong-style items, long outputs, key-value pairs and questions that share a document."""

from __future__ import annotations

import json
import random
import re
from collections import Counter

import pytest

from kvloom.eval.tasks import TASKS
from kvloom.eval.tasks.oolong_items import KINDS, ItemStream, parse
from offline_tasks import samples_of


def test_items_read_back_as_they_were_drawn() -> None:
    stream = ItemStream(random.Random(3))
    items = [stream.draw() for _ in range(500)]
    assert parse("\n".join(item.line for item in items)) == items
    assert not re.search(r"\ba [aeiou]", " ".join(item.text for item in items))


def test_a_fifth_of_the_users_write_most_items() -> None:
    stream = ItemStream(random.Random(3))
    by_user = Counter(stream.draw().user for _ in range(2000))
    assert sum(count for _, count in by_user.most_common(3)) == pytest.approx(0.8 * 2000, rel=0.05)
    assert len(by_user) == 15


def test_no_thing_is_of_two_kinds() -> None:
    things = [thing for kind in KINDS.values() for thing in kind]
    assert len(things) == len(set(things))


@pytest.mark.parametrize("name", ["oolong_all", "oolong_user", "oolong_date"])
def test_answers_count_what_the_question_is_about(name: str) -> None:
    for sample in samples_of(TASKS[name], 2048, 5):
        question = sample.turns[0].question
        items = parse(sample.context)
        assert len(items) == sample.facts["entries"]
        if user := re.search(r"user (\d+)", question):
            items = [item for item in items if item.user == user[1]]
        if before := re.search(r"before (\S+),", question):
            items = [item for item in items if item.day < before[1]]
        if since := re.search(r"from (\S+) on", question):
            items = [item for item in items if item.day >= since[1]]
        assert len(items) == sample.facts["entries_in_scope"] > 0
        kind = re.search(r"the kind (\w+)\?", question)
        assert kind is not None
        assert sample.turns[0].answers == (str(sum(item.kind == kind[1] for item in items)),)


def test_the_asked_pair_moves_through_the_object() -> None:
    places = []
    for sample in samples_of(TASKS["key_value"], 2048, 8):
        block = re.search(r"\{.*\}", sample.context, re.DOTALL)
        assert block is not None
        pairs = json.loads(block[0])
        key = re.search(r'"(\S+)":$', sample.answer_prefix)
        assert key is not None
        places.append(list(pairs).index(key[1]) / len(pairs))
        assert pairs[key[1]] == sample.turns[0].answers[0]
    assert min(places) < 0.2
    assert max(places) > 0.8


def test_turns_share_a_document_and_differ() -> None:
    for sample in samples_of(TASKS["multi_turn"], 1024, 5):
        assert len({turn.question for turn in sample.turns}) == 5
        assert len(sample.facts["needles"]) == 8
        text = sample.context
        for needle in sample.facts["needles"]:
            assert needle in text
            text = text.replace(needle, "")
        assert not any(turn.answers[0] in text for turn in sample.turns)


def test_a_diary_has_its_seven_demands_and_fills_the_output() -> None:
    (sample,) = samples_of(TASKS["longgen_diary"], 2048, 1)
    weeks = sample.facts["weeks"]
    assert sample.context.count("- In week") == 5
    assert sample.context.count("In each of the weeks") == 1
    assert sample.context.count("every") == 1
    assert sample.turns[0].max_new_tokens >= 40 * weeks > 1600
    assert all(1 <= int(answer.split(":")[0]) <= weeks for answer in sample.turns[0].answers)


def test_half_a_diary_gets_half_the_score() -> None:
    task = TASKS["longgen_diary"]
    (sample,) = samples_of(task, 2048, 1)
    whole = task.solve(sample, 0)
    middle = max(int(answer.split(":")[0]) for answer in sample.turns[0].answers) // 2
    half = whole.partition(f"### Week {middle}\n")[0]
    met = [answer for answer in sample.turns[0].answers if int(answer.split(":")[0]) < middle]
    assert task.score(sample, 0, half) == len(met) / len(sample.turns[0].answers)


def test_sums_are_right() -> None:
    (sample,) = samples_of(TASKS["longgen_answers"], 2048, 1)
    problems = re.findall(r"has (\d+) \w+ and (gets|loses) (\d+)", sample.context.rpartition("more questions")[2])
    results = [int(a) + int(b) if verb == "gets" else int(a) - int(b) for a, verb, b in problems]
    assert [int(answer) for answer in sample.turns[0].answers] == results
    assert len(results) > 30
