"""Questions over documents that are computed alone: what the judge's own tasks ask, cut; passages; facts in two places.

| task | documents | what is asked |
|---|---|---|
| gold_and_1, gold_and_3 | a passage with the answer, in changing places, and so many others | Natural Questions |
| needle, keys | a text of RULER's, cut at sentences or lines | ``niah_single_2``, ``niah_multikey_1`` |
| chain | the same | ``vt``, whose links lie in several documents |
| referent | reports and, each in the document after, what "this report" refers to | the number of one report |
| two_hops | who owns what, in other documents than who lives where | where a thing is |

Natural Questions are read from ``nq-open-oracle.jsonl.gz`` of Lost in the Middle's release, which is not in the
repository but may lie in ``TRACES_DIR``; without it these tasks are left out.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Protocol

from bench.retention_cases import traces_directory
from kvloom.eval.corpus import essays
from kvloom.eval.task import TextLength, document_id
from kvloom.eval.tasks import TASKS
from kvloom.eval.tasks.base import SeededTask, ask
from kvloom.eval.tasks.documents import GOLD_POSITIONS
from kvloom.eval.tasks.qa_files import Passage, QaSet, read_open_questions
from kvloom.eval.tasks.scoring import first_line_contains, normalized
from kvloom.eval.tasks.words import NAMES, digits, pairs

LENGTH = 1024
"""Tokens of a prompt with its answer, for tasks that fill a text; the most that others have."""

DOCUMENT = 160
"""Tokens of a document that a text is cut into, at least; the last has what is left."""

_LONGEST_PASSAGE = 220
"""Words of a passage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """The prompt is ``opening``, ``documents`` and ``question``, put together, each tokenized alone; ``begins`` is the
    given beginning of the answer. ``about``: names what other questions may be about too.
    """

    index: int
    opening: str
    documents: tuple[str, ...]
    question: str
    begins: str
    answers: tuple[str, ...]
    max_new_tokens: int
    about: str


class Asking(Protocol):
    """A kind of question. The same seed and index give the same question, whatever the count."""

    @property
    def name(self) -> str: ...
    @property
    def group(self) -> str: ...
    def questions(self, count: int, seed: int, text_length: TextLength) -> Iterator[Question]: ...
    def score(self, question: Question, output: str) -> float:
        """0 to 1."""
        ...


# -- the judge's own tasks, cut ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Cut:
    """A task of ``eval``, whose text is cut into documents."""

    name: str
    of: SeededTask
    most_new_tokens: int
    group: str = "ruler"

    def questions(self, count: int, seed: int, text_length: TextLength) -> Iterator[Question]:
        for sample in self.of.samples(length=LENGTH, count=count, seed=seed, text_length=text_length):
            begin = sample.context.rindex("\n\n") + 2
            turn = sample.turns[0]
            yield Question(
                index=sample.index,
                opening=sample.context[:begin],
                documents=tuple(cut(sample.context[begin:], DOCUMENT, text_length)),
                question=turn.question,
                begins=sample.answer_begins(0),
                answers=turn.answers,
                max_new_tokens=self.most_new_tokens,
                about=document_id(sample.context),
            )

    def score(self, question: Question, output: str) -> float:
        text = output.lower()
        return sum(answer.lower() in text for answer in question.answers) / len(question.answers)


def cut(text: str, size: int, text_length: TextLength) -> Iterator[str]:
    """Pieces of at least ``size`` tokens, the last excepted, that end where a sentence or a line does, put together
    again: the text.
    """
    piece: list[str] = []
    for unit in re.findall(r"[^\n]*?(?:[.!?](?= )|\n|$) ?", text):
        piece.append(unit)
        if text_length("".join(piece)) >= size:
            yield "".join(piece)
            piece = []
    if any(piece):
        yield "".join(piece)


# -- passages ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Passages:
    """A question of ``load``'s, over the passage that has the answer and ``others`` that have not."""

    name: str
    load: Callable[[], QaSet]
    others: int
    group: str = "nq"

    def questions(self, count: int, seed: int, text_length: TextLength) -> Iterator[Question]:
        for index in range(count):
            yield self._question(random.Random(f"{self.group}/{seed}/{index}"), index)

    def _question(self, rng: random.Random, index: int) -> Question:
        found = self.load()
        item = rng.choice([item for item in found.items if len(item.gold[0].text.split()) <= _LONGEST_PASSAGE])
        unwanted = [normalized(answer) for answer in item.answers]
        shown: list[Passage] = []
        while len(shown) < self.others:
            other = rng.choice(found.passages)
            text = normalized(f"{other.title} {other.text}")
            fits = len(other.text.split()) <= _LONGEST_PASSAGE and other not in (*shown, item.gold[0])
            if fits and not any(answer in text for answer in unwanted):
                shown.append(other)
        shown.insert(round(GOLD_POSITIONS[index % len(GOLD_POSITIONS)] * self.others), item.gold[0])
        return Question(
            index=index,
            opening="Write a short answer to the question, using the documents.\n\n",
            documents=tuple(f"Document (Title: {each.title}):\n{each.text}\n\n" for each in shown),
            question=ask(item.question).lstrip("\n"),
            begins="According to the documents,",
            answers=item.answers,
            max_new_tokens=32,
            about=document_id(item.gold[0].text),
        )

    def score(self, question: Question, output: str) -> float:
        return first_line_contains(output, question.answers)


# -- facts in two documents --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class InTwo:
    """Facts of which a question needs two, in two documents; ``make`` writes them. Prose is around them."""

    name: str
    make: Callable[[random.Random], tuple[list[str], str, str, str]]
    group: str = "dependency"

    def questions(self, count: int, seed: int, text_length: TextLength) -> Iterator[Question]:
        for index in range(count):
            rng = random.Random(f"{self.name}/{seed}/{index}")
            documents, question, begins, answer = self.make(rng)
            yield Question(
                index=index,
                opening="Read these notes. You will be asked about them afterwards.\n\n",
                documents=tuple(f"{text}\n\n" for text in documents),
                question=ask(question).lstrip("\n"),
                begins=begins,
                answers=(answer,),
                max_new_tokens=12,
                about=document_id(*documents),
            )

    def score(self, question: Question, output: str) -> float:
        return first_line_contains(output, question.answers)


def referent(rng: random.Random) -> tuple[list[str], str, str, str]:
    """A report in one document, its number in the next, which only says "this report"."""
    things = pairs(rng, 3)
    numbers = [digits(rng, 5) for _ in things]
    documents = []
    for thing, number in zip(things, numbers, strict=True):
        documents.append(f"The following report is about the {thing}. {_prose(rng)}")
        documents.append(f"The number of this report is {number}. {_prose(rng)}")
    asked = rng.randrange(len(things))
    question = f"What is the number of the report about the {things[asked]}?"
    return documents, question, f"Answer: The number of the report about the {things[asked]} is", numbers[asked]


def two_hops(rng: random.Random) -> tuple[list[str], str, str, str]:
    """Who has a thing in one document, where he keeps it in another."""
    things, names, places = pairs(rng, 3), rng.sample(NAMES, 3), pairs(rng, 3)
    owners = " ".join(f"The {thing} belongs to {name}." for thing, name in zip(things, names, strict=True))
    rooms = " ".join(f"{name} lives in the {place} house." for name, place in zip(names, places, strict=True))
    asked = rng.randrange(3)
    documents = [f"{owners} {_prose(rng)}", _prose(rng, 4), f"{rooms} {_prose(rng)}"]
    question = f"The {things[asked]} belongs to {names[asked]}. In which house does its owner live?"
    return documents, question, f"Answer: The owner of the {things[asked]} lives in the", places[asked]


def _prose(rng: random.Random, sentences: int = 2) -> str:
    known = essays().sentences
    start = rng.randrange(len(known) - sentences)
    return " ".join(known[start : start + sentences])


# -- all ---------------------------------------------------------------------------------------------------------------


def made_tasks() -> list[Asking]:
    cuts = {"needle": ("niah_single_2", 12), "keys": ("niah_multikey_1", 12), "chain": ("vt", 24)}
    found: list[Asking] = []
    for name, (of, most) in cuts.items():
        task = TASKS[of]
        assert isinstance(task, SeededTask)
        found.append(Cut(name, task, most))
    return [*found, InTwo("referent", referent), InTwo("two_hops", two_hops)]


def questions_file() -> Path | None:
    """The file of Natural Questions among recorded traces; None: it is not there."""
    path = traces_directory() / "nq-open-oracle.jsonl.gz"
    return path if path.exists() else None


def all_tasks(questions: Path | None) -> list[Asking]:
    """``questions``: the file of Natural Questions, if there is one."""
    if questions is None:
        return made_tasks()
    load = cache(partial(read_open_questions, questions))
    return [Passages("gold_and_1", load, 1), Passages("gold_and_3", load, 3), *made_tasks()]
