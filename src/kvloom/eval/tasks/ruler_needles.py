"""The eight needle tasks of RULER. Source: Hsieh et al. 2404.06654; the filler is our own, prompts are in `wording.py`.

| task | haystack | keys in the text | values per key | asked for |
|---|---|---|---|---|
| niah_single_1 | noise | 1 word | 1 number | 1 key |
| niah_single_2, _3 | prose | 1 word | 1 number, uuid | 1 key |
| niah_multikey_1 | prose | 4 words | 1 number | 1 key |
| niah_multikey_2, _3 | other needles | as many as fit: words, uuids | 1 number, uuid | 1 key |
| niah_multivalue | prose | 1 word | 4 numbers | 1 key |
| niah_multiquery | prose | 4 words | 1 number | 4 keys |
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from kvloom.eval.task import Sample, Turn
from kvloom.eval.tasks.base import Draft, Room, SeededTask
from kvloom.eval.tasks.filler import Haystack, Prose, even_depths, insert, noise_lines
from kvloom.eval.tasks.scoring import share_contained
from kvloom.eval.tasks.wording import Asking, Wording
from kvloom.eval.tasks.words import digits, pair, random_uuid

Kind = Literal["word", "number", "uuid"]
Hay = Literal["noise", "prose", "needles"]

_DRAW: Mapping[Kind, Callable[[random.Random], str]] = {
    "word": pair,
    "number": lambda rng: digits(rng, 7),
    "uuid": random_uuid,
}
_MAX_NEW_TOKENS = 128


@dataclass(frozen=True, slots=True)
class Shape:
    """What a needle task hides, in which haystack, and what it asks for."""

    hay: Hay
    key: Kind = "word"
    value: Kind = "number"
    keys: int = 1
    values: int = 1
    asked: int = 1


SHAPES: Mapping[str, Shape] = {
    "niah_single_1": Shape("noise"),
    "niah_single_2": Shape("prose"),
    "niah_single_3": Shape("prose", value="uuid"),
    "niah_multikey_1": Shape("prose", keys=4),
    "niah_multikey_2": Shape("needles"),
    "niah_multikey_3": Shape("needles", key="uuid", value="uuid"),
    "niah_multivalue": Shape("prose", values=4),
    "niah_multiquery": Shape("prose", keys=4, asked=4),
}


@dataclass(frozen=True, slots=True)
class Needles(SeededTask):
    """One of the needle tasks."""

    shape: Shape
    prose: Prose
    words: Wording

    def compose(self, rng: random.Random, index: int, room: Room) -> Draft:
        shape = self.shape
        known = _draw_keys(shape, shape.keys, rng)
        pieces = [self._sentence(key, value) for key, values in known.items() for value in values]
        depths = even_depths(rng, len(pieces))
        rng.shuffle(pieces)
        asked = list(known)[: shape.asked]
        answers = tuple(value for key in asked for value in known[key])
        make_hay = self._hay(rng, frozenset(known))
        asking = self.words.one if len(answers) == 1 else self.words.many
        turn = self._turn(asking, asked, answers)

        def draw(units: int, padding: str = "") -> Draft:
            separator = " " if shape.hay == "prose" else "\n"
            text = separator.join(insert(make_hay(units), list(zip(depths, pieces, strict=True))))
            return Draft(
                context=asking.opening.format(kind=shape.value) + text + padding,
                turns=(turn,),
                answer_prefix=asking.prefix.format(kind=shape.value, keys=self.words.listed(asked)),
                facts={"depths": tuple(depths), "needles": tuple(pieces)},
            )

        return room.fit_coarse(draw) if shape.hay == "needles" else room.fit(draw)

    def _hay(self, rng: random.Random, known: frozenset[str]) -> Callable[[int], Sequence[str]]:
        """Builds a haystack of a given number of units: words of prose, sentences of noise, or needles."""
        shape = self.shape
        if shape.hay == "noise":
            return noise_lines
        if shape.hay == "prose":
            return Haystack.draw(self.prose(), rng).sentences
        seed = rng.getrandbits(64)

        def needles(count: int) -> list[str]:
            others = _draw_keys(shape, count, random.Random(seed), taken=known)
            return [self._sentence(key, value) for key, (value,) in others.items()]

        return needles

    def score(self, sample: Sample, turn: int, output: str) -> float:
        return share_contained(output, sample.turns[turn].answers)

    def solve(self, sample: Sample, turn: int) -> str:
        known: dict[str, list[str]] = {}
        for key, value in self.words.needles_in(sample.context):
            known.setdefault(key, []).append(value)
        keys = self.words.keys_in(sample.turns[turn].question)
        return ", ".join(value for key in keys for value in known.get(key, []))

    def _sentence(self, key: str, value: str) -> str:
        form = self.words.needle if self.shape.values == 1 else self.words.needle_of_many
        return form.format(kind=self.shape.value, key=key, value=value)

    def _turn(self, asking: Asking, asked: list[str], answers: tuple[str, ...]) -> Turn:
        keys, quoted = self.words.listed(asked), self.words.listed([f"`{key}`" for key in asked])
        question = asking.question.format(kind=self.shape.value, keys=keys, quoted=quoted)
        return Turn(question=question, answers=answers, max_new_tokens=_MAX_NEW_TOKENS)


def _draw_keys(
    shape: Shape, count: int, rng: random.Random, taken: frozenset[str] = frozenset()
) -> dict[str, tuple[str, ...]]:
    """Values by key, for keys that are not in use yet."""
    drawn: dict[str, tuple[str, ...]] = {}
    while len(drawn) < count:
        key = _DRAW[shape.key](rng)
        if key not in taken:
            drawn[key] = tuple(_DRAW[shape.value](rng) for _ in range(shape.values))
    return drawn
