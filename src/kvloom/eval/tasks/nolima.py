"""Retrieval without literal matches: needle and question share no content word, only a fact connects them.

Source of the idea: NoLiMa (Modarressi et al. 2502.05167). All facts and sentences are our own, in `associations.txt`.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from kvloom.eval.corpus import without
from kvloom.eval.task import Sample, Turn
from kvloom.eval.tasks.base import Draft, Room, SeededTask, ask, spread
from kvloom.eval.tasks.filler import Haystack, Prose, insert
from kvloom.eval.tasks.scoring import share_contained
from kvloom.eval.tasks.words import NAMES

_MAX_NEW_TOKENS = 16
_NEARBY = ("From the balcony {name} can see {cue}.", "Every morning {name} walks the dog around {cue}.")
_NEARBY_CUE_FIRST = ("It is {cue} that {name} can see from the balcony.", "Right next to {cue} is the flat of {name}.")
_RESIDENCE = "Who lives in {place}?"

_STOP_WORDS = frozenset(re.findall(r"\w+", """
    a all an and any are around as at be been by can cannot could does every for from had has have in is it its
    many most must never next no not of off on or ought out own rather right should than that the to under
    very was way who with within without would you
"""))  # fmt: skip


@dataclass(frozen=True, slots=True)
class Association:
    """``needle`` contains ``{name}``: the person named there is the answer to ``question``."""

    needle: str
    question: str

    @property
    def topic(self) -> frozenset[str]:
        """Words that must not occur in the rest of the text."""
        return frozenset(_meaning(self.needle.replace("{name}", "")) + _meaning(self.question))


def content_words(text: str) -> frozenset[str]:
    """Content words in lower case, without plural, past tense and participle endings."""
    return frozenset(re.sub(r"(?<=...)(?:ies|es|s|ed|ing)$", "", word) for word in _meaning(text))


def _meaning(text: str) -> list[str]:
    return [word for word in re.findall(r"[a-z]+", text.lower()) if len(word) > 1 and word not in _STOP_WORDS]


@cache
def one_hop() -> tuple[Association, ...]:
    """From a landmark to its city, and from a habit to what it implies."""
    landmarks, habits = _tables()
    by_city = tuple(a for cue, city, _ in landmarks for a in _residences(cue, city))
    return by_city + tuple(Association(needle, question) for needle, question in habits)


@cache
def two_hop() -> tuple[Association, ...]:
    """From a landmark to the country of its city."""
    return tuple(a for cue, _, country in _tables()[0] for a in _residences(cue, country))


def _residences(cue: str, place: str) -> list[Association]:
    """Both orders: name first, and cue first, which is harder."""
    needles = (*_NEARBY, *_NEARBY_CUE_FIRST)
    return [Association(needle.replace("{cue}", cue), _RESIDENCE.format(place=place)) for needle in needles]


@cache
def _tables() -> tuple[tuple[tuple[str, ...], ...], tuple[tuple[str, ...], ...]]:
    text = Path(__file__).with_name("associations.txt").read_text(encoding="utf-8")
    landmarks, _, habits = text.partition("[landmarks]\n")[2].partition("[habits]\n")

    def rows(table: str) -> tuple[tuple[str, ...], ...]:
        return tuple(tuple(cell.strip() for cell in line.split(";")) for line in table.splitlines() if line)

    return rows(landmarks), rows(habits)


@dataclass(frozen=True, slots=True)
class NoLiteralMatch(SeededTask):
    """One needle. Sentences of the haystack that contain a word of the needle or the question are left out."""

    hops: int
    prose: Prose

    @property
    def associations(self) -> tuple[Association, ...]:
        return one_hop() if self.hops == 1 else two_hop()

    def compose(self, rng: random.Random, index: int, room: Room) -> Draft:
        association, name = rng.choice(self.associations), rng.choice(NAMES)
        needle = association.needle.replace("{name}", name)
        hay = Haystack.draw(without(self.prose(), association.topic | frozenset(NAMES)), rng)
        depth = spread(index)
        turn = Turn(
            question=ask(association.question),
            answers=(name,),
            max_new_tokens=_MAX_NEW_TOKENS,
        )

        def draw(words: int) -> Draft:
            text = " ".join(insert(hay.sentences(words), [(depth, needle)]))
            return Draft(
                context=f"Read this text about many people.\n\n{text}",
                turns=(turn,),
                answer_prefix="Answer: The name of this person is",
                facts={"depth": depth, "needle": needle, "hops": self.hops},
            )

        return room.fit(draw)

    def score(self, sample: Sample, turn: int, output: str) -> float:
        return share_contained(output, sample.turns[turn].answers)

    def solve(self, sample: Sample, turn: int) -> str:
        asked = sample.turns[turn].question
        for association in self.associations:
            if association.question in asked:
                form = re.escape(association.needle).replace(re.escape("{name}"), r"(\w+)")
                found = re.search(form, sample.context)
                if found:
                    return found[1]
        return ""
