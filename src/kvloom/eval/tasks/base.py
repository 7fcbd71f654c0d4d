"""Shared by all generated tasks: seeding, and filling a context to a given length."""

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
"""Tokens reserved for the model's beginning-of-text token, which ``text_length`` does not count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A ``Sample`` before it is numbered, with the same fields."""

    context: str
    turns: tuple[Turn, ...]
    answer_prefix: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    document: str = ""


@dataclass(frozen=True, slots=True)
class Room:
    """The token budget of a sample."""

    task: str
    length: int
    text_length: TextLength

    def cost(self, draft: Draft) -> int:
        """Tokens of the longest turn: context, question, answer prefix, and the tokens that may be generated.

        Context and question are counted separately, because they are also tokenized separately: the context is read
        before the question is known.
        """
        return self.text_length(draft.context) + max(self._asked(draft, turn) for turn in draft.turns) + _RESERVED

    def _asked(self, draft: Draft, turn: Turn) -> int:
        return self.text_length(turn.question + turn.answer_prefix + draft.answer_prefix) + turn.max_new_tokens

    def fit(self, draw: Callable[[int], Draft], most: int | None = None) -> Draft:
        """The draft with as much filler as fits.

        ``draw(n)`` returns the draft with n units of filler; it must be deterministic. ``most`` is the largest n.
        Raises ConfigError if even ``draw(0)`` does not fit, or if ``draw(most)`` is more than 2% too short.
        """
        cost_0 = self.cost(draw(0))
        if cost_0 > self.length:
            raise ConfigError(
                f"task `{self.task}` needs at least {cost_0} tokens, got {self.length}", hint="choose a larger length"
            )
        fitted = draw(largest(lambda n: self.cost(draw(n)), self.length, cost_0, most))
        if most is not None and self.cost(fitted) < 0.98 * self.length:
            raise ConfigError(
                f"task `{self.task}` has material for only {self.cost(fitted)} tokens, got {self.length}",
                hint="choose a smaller length, or a larger file",
            )
        return fitted

    def fit_coarse(self, draw: Callable[[int, str], Draft]) -> Draft:
        """Like ``fit``, for filler in long units: the gap that they leave is filled with noise sentences."""
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
        """Like ``fit``, for tasks with long outputs: tokens left over are added to what may be generated."""
        draft = self.fit(draw)
        spare = self.length - self.cost(draft)
        turns = tuple(replace(turn, max_new_tokens=turn.max_new_tokens + spare) for turn in draft.turns)
        return replace(draft, turns=turns)


def largest(size: Callable[[int], int], limit: int, size_0: int, most: int | None = None) -> int:
    """The largest n with ``size(n) <= limit``, or one that leaves less than 0.5% of the limit unused.

    ``size`` grows roughly linearly and is expensive (it tokenizes a text), so the next n to try is interpolated. Every
    third one is the midpoint instead, which bounds the number of calls if growth is uneven.
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
    """A task whose samples are generated from a seed. Its subclasses are final: do not inherit from them."""

    name: str
    group: str

    def samples(self, *, length: int, count: int, seed: int, text_length: TextLength) -> Iterator[Sample]:
        """Generate samples; see ``Task``."""
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
        """One sample. All randomness comes from ``rng``; ``index`` spreads values such as depths evenly."""

    @abstractmethod
    def score(self, sample: Sample, turn: int, output: str) -> float:
        """See ``Task``."""

    @abstractmethod
    def solve(self, sample: Sample, turn: int) -> str:
        """See ``Task``."""


def ask(question: str) -> str:
    """A question as it is appended to a context; the answer goes on the next line.

    The beginning of the answer is not included; it goes into an ``answer_prefix``. Small models complete sentences
    better than they answer questions, and in a chat the prefix is part of the assistant's message.

    A context ends without white space and a question begins with some, so that most tokenizers produce the same tokens
    whether the two are tokenized separately or together.
    """
    return f"\n\nQuestion: {question}\n"


def spread(index: int) -> float:
    """A number in [0, 1) per index; for any n, the first n are evenly spread (golden-ratio sequence)."""
    return (index * 0.6180339887498949 + 0.5) % 1.0
