"""Variable tracking: a chain of assignments hidden in noise. Source: RULER, vt; the noise is our own."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from kvloom.eval.task import Sample, Turn
from kvloom.eval.tasks.base import Draft, Room, SeededTask
from kvloom.eval.tasks.filler import insert, noise_lines, random_depths
from kvloom.eval.tasks.scoring import share_contained
from kvloom.eval.tasks.wording import Wording
from kvloom.eval.tasks.words import digits, letters

HOPS = 4
_MAX_NEW_TOKENS = 30
_EXAMPLE_SHARE = 16
"""Tokens of length per noise sentence of the worked example, which thus takes at most a third of the length."""
_MOST_EXAMPLE_SENTENCES = 90  # about 500 tokens, as in the original


@dataclass(frozen=True, slots=True)
class _Chain:
    """``names[0]`` is assigned the value, and each further name is assigned the one before it."""

    names: tuple[str, ...]
    value: str

    @staticmethod
    def draw(rng: random.Random, name_length: int) -> _Chain:
        names: set[str] = set()
        while len(names) < HOPS + 1:
            names.add(letters(rng, name_length))
        return _Chain(tuple(rng.sample(sorted(names), HOPS + 1)), digits(rng, 5))

    @property
    def lines(self) -> list[str]:
        first = f"VAR {self.names[0]} = {self.value}"
        return [first, *(f"VAR {new} = VAR {old}" for old, new in zip(self.names, self.names[1:], strict=False))]

    def asked(self, text: str) -> str:
        """Fill in a question about this chain, or the beginning of its answer."""
        return text.format(count=len(self.names), value=self.value)

    def among(self, sentences: int, depths: list[float]) -> str:
        return "\n".join(insert(noise_lines(sentences), list(zip(depths, self.lines, strict=True))))


@dataclass(frozen=True, slots=True)
class VariableTracking(SeededTask):
    """One chain, preceded by a worked example with shorter names."""

    words: Wording

    def compose(self, rng: random.Random, index: int, room: Room) -> Draft:
        shown, chain = _Chain.draw(rng, 3), _Chain.draw(rng, 5)
        size = min(room.length // _EXAMPLE_SHARE, _MOST_EXAMPLE_SENTENCES)
        asking = self.words.tracking
        example = asking.opening + shown.among(size, random_depths(rng, HOPS + 1))
        example += f"{shown.asked(asking.question)}{shown.asked(asking.prefix)} {' '.join(shown.names)}\n\n\n"
        depths = random_depths(rng, HOPS + 1)
        turn = Turn(question=chain.asked(asking.question), answers=chain.names, max_new_tokens=_MAX_NEW_TOKENS)

        def draw(sentences: int) -> Draft:
            return Draft(
                context=f"{example}{asking.opening}{chain.among(sentences, depths)}",
                turns=(turn,),
                answer_prefix=chain.asked(asking.prefix),
                facts={"depths": tuple(depths), "chain": chain.names, "value": chain.value},
            )

        return room.fit(draw)

    def score(self, sample: Sample, turn: int, output: str) -> float:
        return share_contained(output, sample.turns[turn].answers)

    def solve(self, sample: Sample, turn: int) -> str:
        asked = re.search(r"value (\d+)", sample.turns[turn].question)
        holding: dict[str, str] = {}
        for name, value, source in re.findall(r"^VAR (\w+) = (?:(\d+)|VAR (\w+))$", sample.context, re.MULTILINE):
            holding[name] = value or holding.get(source, "")
        return " ".join(name for name, value in holding.items() if asked and value == asked[1])
