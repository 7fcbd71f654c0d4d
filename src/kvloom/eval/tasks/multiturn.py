"""Several questions about one document; none of them is known when the document is read.

What a cache policy drops because one question does not need it may be what another question asks for.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from kvloom.eval.corpus import without
from kvloom.eval.task import Sample, Turn
from kvloom.eval.tasks.base import Draft, Room, SeededTask, ask
from kvloom.eval.tasks.filler import Haystack, Prose, even_depths, insert
from kvloom.eval.tasks.scoring import first_line, share_contained
from kvloom.eval.tasks.words import NAMES

TURNS = 5
_PEOPLE = 8
_MAX_NEW_TOKENS = 16


@dataclass(frozen=True, slots=True)
class _Trait:
    """A fact about a person, the question about it, and its possible values."""

    fact: str
    question: str
    values: tuple[str, ...]

    def fact_begins(self, name: str) -> str:
        """The sentence of the fact, up to its value."""
        return self.fact.partition("{value}")[0].format(name=name).rstrip()


_TRAITS = (
    _Trait("The birthday of {name} is in {value}.", "In which month is the birthday of {name}?", (
        "January", "February", "March", "April", "July", "August", "September", "October", "November", "December",
    )),
    _Trait("The instrument of {name} is the {value}.", "Which instrument does {name} play?", (
        "cello", "trumpet", "oboe", "harp", "banjo", "clarinet", "organ", "piano", "flute", "accordion",
    )),
    _Trait("The pet of {name} is a {value}.", "What kind of pet does {name} have?", (
        "parrot", "rabbit", "hamster", "tortoise", "goldfish", "ferret", "canary", "lizard", "spaniel", "poodle",
    )),
    _Trait("The favourite colour of {name} is {value}.", "What is the favourite colour of {name}?", (
        "purple", "orange", "turquoise", "crimson", "violet", "beige", "indigo", "scarlet", "maroon", "khaki",
    )),
    _Trait("The home town of {name} is {value}.", "What is the home town of {name}?", (
        "Geneva", "Porto", "Bergen", "Turin", "Leeds", "Utrecht", "Gdansk", "Aarhus", "Bilbao", "Cork",
    )),
)  # fmt: skip

_VALUES = frozenset(value for trait in _TRAITS for value in trait.values) | frozenset(NAMES)


@dataclass(frozen=True, slots=True)
class ManyQuestions(SeededTask):
    """Facts about eight people, hidden in prose; five of them are asked for, one question each."""

    prose: Prose

    def compose(self, rng: random.Random, index: int, room: Room) -> Draft:
        traits = [_TRAITS[n % len(_TRAITS)] for n in range(_PEOPLE)]
        known = [(t, name, rng.choice(t.values)) for t, name in zip(traits, rng.sample(NAMES, _PEOPLE), strict=True)]
        facts = [trait.fact.format(name=name, value=value) for trait, name, value in known]
        order = rng.sample(range(_PEOPLE), _PEOPLE)
        depths = even_depths(rng, _PEOPLE)
        pieces = [(depth, facts[n]) for depth, n in zip(depths, order, strict=True)]
        asked = rng.sample(range(_PEOPLE), TURNS)
        turns = tuple(
            Turn(
                question=ask(trait.question.format(name=name)),
                answers=(value,),
                max_new_tokens=_MAX_NEW_TOKENS,
                answer_prefix=f"Answer: {trait.fact_begins(name)}",
            )
            for trait, name, value in (known[n] for n in asked)
        )
        hay = Haystack.draw(without(self.prose(), _VALUES), rng)

        def draw(words: int) -> Draft:
            text = " ".join(insert(hay.sentences(words), pieces))
            return Draft(
                context=f"Read this text. You will be asked about some of the people in it.\n\n{text}",
                turns=turns,
                facts={"depths": tuple(depths[order.index(n)] for n in asked), "needles": tuple(facts)},
            )

        return room.fit(draw)

    def score(self, sample: Sample, turn: int, output: str) -> float:
        return share_contained(first_line(output), sample.turns[turn].answers)

    def solve(self, sample: Sample, turn: int) -> str:
        question = sample.turns[turn].question
        for trait in _TRAITS:
            name = re.search(re.escape(trait.question).replace(re.escape("{name}"), r"(\w+)"), question)
            if name:
                form = re.escape(trait.fact).replace(re.escape("{name}"), name[1])
                found = re.search(form.replace(re.escape("{value}"), r"(\w+)"), sample.context)
                return found[1] if found else ""
        return ""
