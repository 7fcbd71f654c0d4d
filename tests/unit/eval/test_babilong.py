"""The little world, told and read."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvloom.eval.tasks import TASKS
from kvloom.eval.tasks.babi_reader import answer, read
from kvloom.eval.tasks.babi_stories import KINDS, with_other_people
from kvloom.eval.tasks.babi_world import GIVERS, PEOPLE, STAND_INS, World
from kvloom.eval.tasks.scoring import only_label
from offline_tasks import samples_of

TEXT = (
    "Mary went to the kitchen. It rained. Mary took the apple. John moved to the garden. Mary walked to the office. "
    "Mary dropped the apple. Mary got the milk. Mary went to the garden. Mary handed the milk to John. "
    "Sandra is either in the hallway or in the office. Daniel is in the bedroom. Daniel is no longer in the bedroom. "
    "The office is north of the kitchen. The kitchen is north of the garden."
)


@pytest.mark.parametrize(
    ("question", "wanted"),
    [
        ("Where is Mary?", "garden"),
        ("Where is the apple?", "office"),
        ("Where was the apple before the office?", "kitchen"),
        ("What is north of the kitchen?", "office"),
        ("What is the kitchen north of?", "garden"),
        ("What did Mary give to John?", "milk"),
        ("Who did Mary give the milk to?", "John"),
        ("Who gave the milk to John?", "Mary"),
        ("Who received the milk?", "John"),
        ("Is Mary in the garden?", "yes"),
        ("Is Mary in the kitchen?", "no"),
        ("Is Sandra in the office?", "maybe"),
        ("Is Sandra in the garden?", "no"),
        ("Is Daniel in the bedroom?", "no"),
        ("How many things is John carrying?", "one"),
        ("What is John carrying?", "milk"),
        ("What is Mary carrying?", "nothing"),
        ("What colour is the milk?", ""),
    ],
)
def test_reading(question: str, wanted: str) -> None:
    assert answer(read(TEXT), question) == wanted


@pytest.mark.parametrize("kind", KINDS)
@given(seed=st.integers(0, 2**32))
def test_stories_have_one_answer_and_the_reader_finds_it(kind: str, seed: int) -> None:
    story = KINDS[kind].tell(random.Random(seed))
    found = answer(read(" ".join(story.facts)), story.question)
    assert only_label(found, story.question, story.answer, KINDS[kind].labels) == 1.0


@given(seed=st.integers(0, 2**32))
def test_only_legal_actions_are_told(seed: int) -> None:
    world = World(random.Random(seed))
    for _ in range(30):
        before = dict(world.room_of), dict(world.holder_of)
        world.act(carrying=0.5)
        person, thing = world.facts[-1].split()[0], world.facts[-1].rstrip(".").split()[-1]
        if world.holder_of.get(thing) == person:
            assert thing not in before[1]
            assert before[0].get(thing, before[0][person]) == before[0][person]
        elif thing in before[1]:
            assert before[1][thing] == person
            assert world.room_of[thing] == before[0][person]


@pytest.mark.parametrize("kind", KINDS)
def test_answers_vary(kind: str) -> None:
    told = [KINDS[kind].tell(random.Random(seed)).answer for seed in range(200)]
    assert {label for answers in told for label in answers.split(",")} == set(KINDS[kind].labels)
    assert max(told.count(label) for label in set(told)) < 140


@pytest.mark.parametrize("kind", KINDS)
def test_worked_examples_are_about_nobody_of_the_story(kind: str) -> None:
    """Their facts would be read as the story's, and their answers could be its answer."""
    for sample in samples_of(TASKS[f"babilong_{kind}"], 512, 5):
        examples = sample.context.partition("The text begins here.")[0]
        assert {*PEOPLE, *GIVERS}.isdisjoint(re.findall(r"\w+", examples))


@pytest.mark.parametrize("kind", KINDS)
@given(seed=st.integers(0, 2**32))
def test_other_people_live_the_same_story(kind: str, seed: int) -> None:
    people = {*PEOPLE, *GIVERS}
    told, shown = KINDS[kind].tell(random.Random(seed)), with_other_people(KINDS[kind].tell(random.Random(seed)))
    assert len(told.facts) == len(shown.facts)
    assert people.isdisjoint(re.findall(r"\w+", " ".join((*shown.facts, shown.question, shown.answer))))
    swapped = dict(zip(dict.fromkeys((*PEOPLE, *GIVERS)), STAND_INS, strict=True))
    assert shown.answer == swapped.get(told.answer, told.answer)


@pytest.mark.parametrize("kind", KINDS)
def test_facts_stand_in_order_and_nowhere_twice(kind: str) -> None:
    for sample in samples_of(TASKS[f"babilong_{kind}"], 1024, 5):
        text = sample.context.rpartition("The text begins here.")[2]
        place = 0
        for fact in sample.facts["facts"]:
            place = text.index(fact, place) + len(fact)
        for fact in sample.facts["facts"]:
            text = text.replace(fact, "")
        assert read(text) == read("")
