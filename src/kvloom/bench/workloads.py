"""The workloads: which requests are sent, in which order, and which figures result. Lengths are in tokens.

Every figure is a rate (more is better), so that two engines compare by a plain ratio. ``reset`` comes first in each:
nothing but what the workload itself has sent can be reused.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from kvloom.bench.target import Answer, Target

_SPECIAL = 100
"""Ids below are special tokens in most models."""

Tokens = Callable[[int], list[int]]
"""Draws so many prompt tokens; no two draws begin alike."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One number of one run. ``name`` is unique among the workloads that are run together."""

    name: str
    value: float
    unit: str


class Workload(Protocol):
    """longest: positions of its longest sequence; kv_tokens: positions whose KV an engine holds at most; apart: how
    many sequences that share nothing are held at the same time.
    """

    @property
    def name(self) -> str: ...
    @property
    def longest(self) -> int: ...
    @property
    def kv_tokens(self) -> int: ...
    @property
    def apart(self) -> int: ...
    @property
    def output_tokens(self) -> int: ...
    def measure(self, target: Target, tokens: Tokens) -> list[Figure]: ...


def random_tokens(vocab_size: int, seed: int) -> Tokens:
    """Uniform over the vocabulary, special tokens left out; the same seed draws the same."""
    rng = random.Random(seed)
    low = _SPECIAL if vocab_size > 2 * _SPECIAL else 1
    return lambda count: [rng.randrange(low, vocab_size) for _ in range(count)]


def text_tokens(text: list[int], vocab_size: int, seed: int) -> Tokens:
    """Stretches of a text, repeated where it is too short, each after one random token: none is a prefix of another."""
    rng, first = random.Random(seed), random_tokens(vocab_size, seed)

    def draw(count: int) -> list[int]:
        start = rng.randrange(len(text))
        return [*first(1), *((text[start:] + text * (count // len(text) + 1))[: count - 1])]

    return draw


@dataclass(frozen=True, slots=True)
class Single:
    """One prompt alone: its prefill, and decoding after it. ``label`` distinguishes kinds of prompts."""

    context: int
    num_new: int = 33
    label: str = ""

    @property
    def name(self) -> str:
        return f"{self.context}{self.label and ' ' + self.label}"

    @property
    def longest(self) -> int:
        return self.context + self.num_new

    @property
    def kv_tokens(self) -> int:
        return self.longest

    @property
    def apart(self) -> int:
        return 1

    @property
    def output_tokens(self) -> int:
        return self.num_new

    def measure(self, target: Target, tokens: Tokens) -> list[Figure]:
        target.reset()
        (answer,) = target.run([tokens(self.context)], self.num_new)
        return [
            Figure(f"prefill {self.name}", self.context / answer.ttft_s, "tok/s"),
            Figure(f"decode after {self.name}", answer.decode_tokens_per_s, "tok/s"),
        ]


@dataclass(frozen=True, slots=True)
class Together:
    """Requests that arrive together and have nothing in common."""

    requests: int = 16
    prompt: int = 512
    num_new: int = 64

    @property
    def name(self) -> str:
        return f"{self.requests} x ({self.prompt} in + {self.num_new} out)"

    @property
    def longest(self) -> int:
        return self.prompt + self.num_new

    @property
    def kv_tokens(self) -> int:
        return self.requests * self.longest

    @property
    def apart(self) -> int:
        return self.requests

    @property
    def output_tokens(self) -> int:
        return self.requests * self.num_new

    def measure(self, target: Target, tokens: Tokens) -> list[Figure]:
        target.reset()
        answers = target.run([tokens(self.prompt) for _ in range(self.requests)], self.num_new)
        return [_output_rate(self.name, [answers])]


@dataclass(frozen=True, slots=True)
class SharedPrefix:
    """Requests that begin with one prefix, which the engine has seen before, untimed."""

    requests: int = 8
    prefix: int = 2048
    tail: int = 64
    num_new: int = 32

    @property
    def name(self) -> str:
        return f"{self.requests} x ({self.tail} new + {self.num_new} out) on a shared {self.prefix}"

    @property
    def longest(self) -> int:
        return self.prefix + self.tail + self.num_new

    @property
    def kv_tokens(self) -> int:
        return self.prefix + self.requests * (self.tail + self.num_new)

    @property
    def apart(self) -> int:
        return 1

    @property
    def output_tokens(self) -> int:
        return 1 + self.requests * self.num_new

    def measure(self, target: Target, tokens: Tokens) -> list[Figure]:
        target.reset()
        prefix = tokens(self.prefix)
        target.run([prefix], 1)
        answers = target.run([prefix + tokens(self.tail) for _ in range(self.requests)], self.num_new)
        return [_output_rate(self.name, [answers])]


@dataclass(frozen=True, slots=True)
class MultiTurn:
    """Conversations that take turns, one request at a time; each turn sends all that was said before, and more."""

    chats: int = 4
    turns: int = 8
    question: int = 736
    num_new: int = 32

    @property
    def longest(self) -> int:
        return self.turns * (self.question + self.num_new)

    @property
    def name(self) -> str:
        return f"{self.chats} chats x {self.turns} turns, each to {self.longest}"

    @property
    def kv_tokens(self) -> int:
        return self.chats * self.longest

    @property
    def apart(self) -> int:
        return self.chats

    @property
    def output_tokens(self) -> int:
        return self.chats * self.turns * self.num_new

    def measure(self, target: Target, tokens: Tokens) -> list[Figure]:
        target.reset()
        said: list[list[int]] = [[] for _ in range(self.chats)]
        runs = []
        for _ in range(self.turns):
            for chat in said:
                chat += tokens(self.question)
                runs.append(target.run([chat], self.num_new))
                chat += runs[-1][0].tokens
        return [_output_rate(self.name, runs)]


def _output_rate(name: str, runs: list[list[Answer]]) -> Figure:
    """Output tokens of all runs over the time until the last answer of each was complete."""
    seconds = sum(max(answer.times_s[-1] for answer in answers) for answers in runs)
    count = sum(len(answer.tokens) for answers in runs for answer in answers)
    return Figure(name, count / seconds, "out tok/s")
