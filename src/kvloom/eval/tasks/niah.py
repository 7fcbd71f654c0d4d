"""Needle in a haystack: one fact at a given depth of a long text. Source: Kamradt 2023.

Unlike the original, the needle is random, so that containment can score an answer and no judge is needed.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from kvloom.eval.task import Sample, Turn
from kvloom.eval.tasks.base import Draft, Room, SeededTask, ask
from kvloom.eval.tasks.filler import Haystack, Prose, insert
from kvloom.eval.tasks.scoring import share_contained
from kvloom.eval.tasks.words import digits

DEPTHS = (0.5, 0.0, 1.0, 0.2, 0.8, 0.4, 0.6, 0.1, 0.9, 0.3, 0.7)
"""The depths of the grid, ordered so that the first few are already spread out."""

_CITIES = (
    "Lisbon", "Oslo", "Nairobi", "Lima", "Havana", "Dublin", "Prague", "Seoul", "Quito", "Tunis", "Riga", "Hanoi",
    "Dakar", "Perth", "Turin", "Bergen", "Porto", "Izmir", "Osaka", "Malmo", "Accra", "Bogota", "Manila",
    "Zagreb", "Tbilisi",
)  # fmt: skip
_NEEDLE = "The access code of the locker in {city} is {code}."
_MAX_NEW_TOKENS = 16


@dataclass(frozen=True, slots=True)
class NeedleGrid(SeededTask):
    """Successive samples cycle through the depths."""

    prose: Prose

    def compose(self, rng: random.Random, index: int, room: Room) -> Draft:
        depth = DEPTHS[index % len(DEPTHS)]
        hay = Haystack.draw(self.prose(), rng)
        city, code = rng.choice(_CITIES), digits(rng, 6)
        needle = _NEEDLE.format(city=city, code=code)
        turn = Turn(
            question=ask(f"What is the access code of the locker in {city}?"),
            answers=(code,),
            max_new_tokens=_MAX_NEW_TOKENS,
        )

        def draw(words: int) -> Draft:
            text = " ".join(insert(hay.sentences(words), [(depth, needle)]))
            return Draft(
                context=f"Read this text and remember the access code that it mentions.\n\n{text}",
                turns=(turn,),
                answer_prefix=f"Answer: The access code of the locker in {city} is",
                facts={"depth": depth, "needles": (needle,)},
            )

        return room.fit(draw)

    def score(self, sample: Sample, turn: int, output: str) -> float:
        return share_contained(output, sample.turns[turn].answers)

    def solve(self, sample: Sample, turn: int) -> str:
        asked = re.search(r"locker in (\w+)\?", sample.turns[turn].question)
        found = asked and re.search(rf"locker in {asked[1]} is (\d+)\.", sample.context)
        return found[1] if found else ""
