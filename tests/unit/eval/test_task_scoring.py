"""Worked examples of every metric."""

from __future__ import annotations

import pytest

from kvloom.eval.tasks.babi_stories import KINDS
from kvloom.eval.tasks.scoring import (
    any_contained,
    demands_met,
    first_line_contains,
    near_number,
    normalized,
    only_label,
    only_phrase,
    same_numbers,
    same_phrase,
    share_contained,
    units_of,
)

ROOMS = KINDS["qa1"].labels


@pytest.mark.parametrize(
    ("output", "answers", "score"),
    [
        (" 4821093.", ("4821093",), 1.0),
        ("The values are ABC and def", ("abc", "DEF", "ghi", "jkl"), 0.5),
        ("none of them", ("12",), 0.0),
        ("48210930", ("4821093",), 1.0),
    ],
)
def test_ruler_counts_the_share_contained(output: str, answers: tuple[str, ...], score: float) -> None:
    assert share_contained(output, answers) == score


def test_ruler_qa_takes_any_answer() -> None:
    assert any_contained("It was PARIS, I think", ("Lyon", "paris")) == 1.0
    assert any_contained("Nice", ("Lyon", "Paris")) == 0.0


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("The  Eiffel-Tower!", "eiffeltower"),
        ("an apple, a day", "apple day"),
        ("Theatre", "theatre"),
    ],
)
def test_squad_normalization(text: str, result: str) -> None:
    assert normalized(text) == result


def test_lost_in_the_middle_reads_the_first_line_only() -> None:
    assert first_line_contains(" Wilhelm Röntgen, of Germany\nBohr", ("wilhelm röntgen",)) == 1.0
    assert first_line_contains("Bohr\nWilhelm Röntgen", ("Wilhelm Röntgen",)) == 0.0


@pytest.mark.parametrize(
    ("output", "score"),
    [
        (" kitchen.", 1.0),
        ("Mary is in the kitchen\n\nQuestion: Where is John?\nAnswer: office", 1.0),
        ("the kitchen. Before that the office.", 1.0),
        ("kitchen or office", 0.0),
        ("office", 0.0),
        ("", 0.0),
    ],
)
def test_babilong_wants_one_label(output: str, score: float) -> None:
    assert only_label(output, "Where is Mary?", "kitchen", ROOMS) == score


def test_babilong_ignores_labels_of_the_question() -> None:
    question = "Where was the apple before the office?"
    assert only_label("before the office it was in the garden", question, "garden", ROOMS) == 1.0


def test_babilong_compares_sets_and_whole_words() -> None:
    things, numbers = KINDS["qa8"].labels, KINDS["qa7"].labels
    assert only_label("milk, apple", "What is Mary carrying?", "apple,milk", things) == 1.0
    assert only_label("milk", "What is Mary carrying?", "apple,milk", things) == 0.0
    assert only_label("milk, apple and football", "What is Mary carrying?", "apple,milk", things) == 0.0
    assert only_label("none", "How many things is Mary carrying?", "none", numbers) == 1.0


def test_oolong_numbers_lose_a_quarter_per_unit() -> None:
    assert near_number(" 12 entries", 12) == 1.0
    assert near_number("14", 12) == 0.75**2
    assert near_number("1,012", 1012) == 1.0
    assert near_number("twelve\n12", 12) == 0.0


def test_oolong_phrases_are_exact() -> None:
    assert same_phrase(" More common.\nText", "more common") == 1.0
    assert same_phrase("animal, tool", "animal") == 1.0
    assert same_phrase("not animal", "animal") == 0.0


def test_oolong_comparisons_name_one_relation() -> None:
    relations = ("more common", "less common", "same frequency")
    assert only_phrase(" More common than tool.", "more common", relations) == 1.0
    assert only_phrase("of the same frequency\nmore common", "same frequency", relations) == 1.0
    assert only_phrase("more common, or less common", "more common", relations) == 0.0


def test_long_texts_are_scored_by_unit() -> None:
    units = units_of("### Week 1\nplant garlic\n### Week 3\nprune the roses\n### Week 3\nagain", "### Week")
    demands = {1: ["plant garlic"], 2: ["oil the gate"], 3: ["prune the roses", "mow the lawn"]}
    assert units[3] == "\nprune the roses\n"
    assert demands_met(units, demands) == 0.5
    assert demands_met({}, demands) == 0.0


def test_numbered_answers_are_scored_by_their_last_number() -> None:
    assert same_numbers("Answer 1: 20 - 3 = 17\nAnswer 2: 5\nAnswer 3:", ("17", "6", "1")) == pytest.approx(1 / 3)
