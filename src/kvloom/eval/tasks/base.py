"""Common to all generated tasks: seeding, and filling a context up to a length."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from kvloom.errors import ConfigError
from kvloom.eval.task import Sample, TextLength, Turn
from kvloom.eval.tasks.filler import noise

_RESERVED = 1
"""Tokens left for the model's beginning-of-text token, which a text's own length does not count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A sample before it is numbered; same fields as there."""

    context: str
    turns: tuple[Turn, ...]
    answer_prefix: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    document: str = ""


@dataclass(frozen=True, slots=True)
class Room:
    """The tokens that a sample may fill."""

    task: str
    length: int
    text_length: TextLength

    def cost(self, draft: Draft) -> int:
        """Tokens of the longest turn: context, question and answer prefix, and what may be generated.

        Context and question are counted apart, as they are fed to a model that does not know the question yet.
        """
        return self.text_length(draft.context) + max(self._asked(draft, turn) for turn in draft.turns) + _RESERVED

    def _asked(self, draft: Draft, turn: Turn) -> int:
        return self.text_length(turn.question + turn.answer_prefix + draft.answer_prefix) + turn.max_new_tokens

    def fit(self, draw: Callable[[int], Draft], most: int | None = None) -> Draft:
        """The draft with as much filler as fits.

        ``draw(n)`` is the draft with n units of filler, the same whenever it is asked. ``most`` bounds n. Raises
        ConfigError when not even ``draw(0)`` fits, or when ``draw(most)`` is too short by more than 2%.
        """
        cost_0 = self.cost(draw(0))
        if cost_0 > self.length:
            raise ConfigError(
                f"task `{self.task}` needs {cost_0} tokens, not {self.length}", hint="choose a greater length"
            )
        fitted = draw(largest(lambda n: self.cost(draw(n)), self.length, cost_0, most))
        if most is not None and self.cost(fitted) < 0.98 * self.length:
            raise ConfigError(
                f"task `{self.task}` has material for {self.cost(fitted)} tokens only, not {self.length}",
                hint="choose a smaller length, or give it a larger file",
            )
        return fitted

    def fit_coarse(self, draw: Callable[[int, str], Draft]) -> Draft:
        """Like ``fit`` for long units that leave a gap, which is filled with noise sentences."""
        units = 0

        def unpadded(n: int) -> Draft:
            nonlocal units
            units = n
            return draw(n, "")

        fitted = self.fit(unpadded)
        if self.cost(fitted) > 0.99 * self.length:
            return fitted
        return self.fit(lambda sentences: draw(units, noise(sentences)))

    def fit_output(self, draw: Callable[[int], Draft]) -> Draft:
        """Like ``fit`` for long outputs: what is left may be generated too."""
        draft = self.fit(draw)
        spare = self.length - self.cost(draft)
        turns = tuple(replace(turn, max_new_tokens=turn.max_new_tokens + spare) for turn in draft.turns)
        return replace(draft, turns=turns)


def largest(size: Callable[[int], int], limit: int, size_0: int, most: int | None = None) -> int:
    """The largest n with ``size(n) <= limit``, or one that leaves less than 0.5% of the limit unused.

    ``size`` grows roughly linearly and is expensive (it tokenizes a text), so the next n is interpolated; every third
    one is the midpoint, which bounds the number of calls for uneven growth.
    """
    low, low_size = 0, size_0
    high, high_size = most if most is not None else 0, 0
    bounded = False  # whether size(high) > limit is known
    guess, calls = 16, 0
    if most is not None:
        guess = min(guess, most)
    while (not bounded and low != most) or (bounded and high - low > 1):
        found = size(guess)
        calls += 1
        if found > limit:
            high, high_size, bounded = guess, found, True
        else:
            low, low_size = guess, found
            if limit - found < limit / 200:
                break
        if bounded:
            share = 0.5 if calls % 3 == 0 else (limit - low_size + 0.5) / max(1, high_size - low_size)
            guess = min(max(low + int(share * (high - low)), low + 1), high - 1)
        else:
            slope = max((low_size - size_0) / max(low, 1), 0.01)
            guess = low + max(1, min(int((limit - low_size) / slope), 64 * (low + 1)))
            guess = min(guess, most) if most is not None else guess
    return low


@dataclass(frozen=True, slots=True)
class SeededTask(ABC):
    """A task whose samples are composed from a seed. One step of inheritance: the tasks below are final."""

    name: str
    group: str

    def samples(self, *, length: int, count: int, seed: int, text_length: TextLength) -> Iterator[Sample]:
        """Make samples; see ``Task``."""
        room = Room(self.name, length, lru_cache(maxsize=64)(text_length))
        for index in range(count):
            rng = random.Random(f"{self.name}/{length}/{seed}/{index}")
            draft = self.compose(rng, index, room)
            yield Sample(
                task=self.name,
                index=index,
                length=length,
                context=draft.context,
                turns=draft.turns,
                answer_prefix=draft.answer_prefix,
                facts=draft.facts,
                document=draft.document,
            )

    @abstractmethod
    def compose(self, rng: random.Random, index: int, room: Room) -> Draft:
        """One sample, from ``rng`` alone; ``index`` is for what must be spread evenly, such as depths."""

    @abstractmethod
    def score(self, sample: Sample, turn: int, output: str) -> float:
        """See ``Task``."""

    @abstractmethod
    def solve(self, sample: Sample, turn: int) -> str:
        """See ``Task``."""


def ask(question: str) -> str:
    """A question as it follows a context, answered on the next line.

    The beginning of the answer is separate, in an ``answer_prefix``: small models complete sentences better than they
    answer questions, and in a chat it belongs to the assistant.

    Contexts end without white space and what follows begins with some, so that most tokenizers produce the same tokens
    for both, separate or joined.
    """
    return f"\n\nQuestion: {question}\n"


def spread(index: int) -> float:
    """A number in [0, 1) for every index, such that the first few of any count are spread evenly (golden ratio)."""
    return (index * 0.6180339887498949 + 0.5) % 1.0
