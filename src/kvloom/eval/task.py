"""What a benchmark is to the runner: seeded samples, a score, and an oracle that shows that they can be solved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One question about a context.

    ``question``: text after the context. ``answers``: what the task's metric compares with.
    """

    question: str
    answers: tuple[str, ...]
    max_new_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A context and its questions.

    ``length``: target length in tokens, question and answer prefix included. ``context``: the part that can be
    compressed, known before the questions. ``turns``: at least one, asked one after another. ``answer_prefix``: text
    that the model's answer starts after. ``facts``: for the oracle and the reports (depth, needles, ...).
    """

    task: str
    index: int
    length: int
    context: str
    turns: tuple[Turn, ...]
    answer_prefix: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


class TextLength(Protocol):
    """Tokens of a text, special tokens not counted."""

    def __call__(self, text: str) -> int: ...


class Task(Protocol):
    """A benchmark. Deterministic by (length, seed); sample i does not depend on ``count``."""

    @property
    def name(self) -> str: ...
    @property
    def group(self) -> str: ...
    def samples(self, *, length: int, count: int, seed: int, text_length: TextLength) -> Iterator[Sample]: ...
    def score(self, sample: Sample, turn: int, output: str) -> float:
        """0 to 1."""
        ...

    def solve(self, sample: Sample, turn: int) -> str:
        """The oracle: finds the answer by reading context and question only."""
        ...
