"""Two benchmarks for the tiny engine: one that it cannot do, and one whose score says which sample it was."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from kvloom.eval.run import Work
from kvloom.eval.subject import Subject
from kvloom.eval.task import Sample, TextLength, Turn
from tiny import CharTokenizer, make_engine

LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class ToyNeedle:
    """A digit among letters; ``num_turns`` questions about one context, ``sharing`` samples per context."""

    name: str = "toy_needle"
    group: str = "toy"
    num_turns: int = 1
    sharing: int = 1
    new_tokens: int = 3

    def samples(self, *, length: int, count: int, seed: int, text_length: TextLength) -> Iterator[Sample]:
        for index in range(count):
            rng = random.Random(f"{self.name}/{length}/{seed}/{index // self.sharing}")
            digit, size = str(rng.randrange(10)), length - 8 - self.new_tokens
            place = rng.randrange(size)
            letters = "".join(rng.choices(LETTERS, k=size))
            turns = [
                Turn(question=f" q{n}{index}?", answers=(digit,), max_new_tokens=self.new_tokens)
                for n in range(self.num_turns)
            ]
            yield Sample(
                task=self.name,
                index=index,
                length=length,
                context=letters[:place] + digit + letters[place + 1 :],
                turns=tuple(turns),
                answer_prefix="=",
                facts={"depth": place / size},
            )

    def score(self, sample: Sample, turn: int, output: str) -> float:
        return float(sample.turns[turn].answers[0] in output)

    def solve(self, sample: Sample, turn: int) -> str:
        return next(letter for letter in sample.context if letter.isdigit())


@dataclass(frozen=True)
class ToyShape(ToyNeedle):
    """Scores by what the answer looks like: some number between 0 and 1 that differs between answers."""

    name: str = "toy_shape"

    def score(self, sample: Sample, turn: int, output: str) -> float:
        return sum(map(ord, output)) % 11 / 10


def tiny_subject(windows: tuple[int | None, ...] = (None, None), **settings) -> Subject:
    return Subject("tiny", CharTokenizer(), make_engine(windows, **settings))


def toy_work(count: int = 4, lengths: tuple[int, ...] = (60, 90), **changes) -> Work:
    return Work(tasks=(ToyNeedle(**changes), ToyShape(**changes)), lengths=lengths, count=count, seed=1)
