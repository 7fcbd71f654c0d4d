"""What a benchmark is: samples from a seed or a file, a score for every answer, and an oracle that can solve them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One question about a context."""

    question: str
    """Text that follows the context, with its own line breaks."""
    answers: tuple[str, ...]
    """What the task's metric compares with."""
    max_new_tokens: int
    answer_prefix: str = ""
    """The first words of the answer, given, where they differ from turn to turn; see ``Sample.answer_prefix``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One context and what is asked about it.

    The prompt of a turn is ``context + question + answer_begins(turn)``, joined as they are; ``context`` is known, and
    may be compressed, before any question. Several turns ask about the same context, each on its own: no turn sees
    another.
    """

    task: str
    index: int
    length: int
    """The target in tokens: the prompt of the longest turn and its ``max_new_tokens`` together, within 2% below."""
    context: str
    turns: tuple[Turn, ...]
    answer_prefix: str = ""
    """The first words of every turn's answer, given. Ends without a space."""
    facts: Mapping[str, Any]
    """What the generator knows (depth, needles ...): for reports, never for the oracle."""
    document: str = ""
    """Names the text that the sample is about, where other samples may be about it too; empty: nobody else's context.

    What is said about one document is one observation, however often it is asked.
    """
    chat: bool = True
    """Whether it is a question that may be put in a chat, not a text that just goes on: examples in a row, code."""

    def answer_begins(self, turn: int) -> str:
        """What is given of the answer to a turn."""
        return self.turns[turn].answer_prefix + self.answer_prefix


def document_id(*texts: str) -> str:
    """The name of a document: the same for the same texts, whichever task or file they come from."""
    return hashlib.sha256("\0".join(texts).encode(errors="replace")).hexdigest()[:16]


class TextLength(Protocol):
    """Counts the tokens of a text, special tokens not included."""

    def __call__(self, text: str) -> int: ...


class Task(Protocol):
    """A kind of sample. The same (task, length, seed) and index give the same sample, whatever the count."""

    @property
    def name(self) -> str:
        """For example ``niah_single_1``."""

    @property
    def group(self) -> str:
        """The benchmark it belongs to, for example ``ruler``."""

    def samples(self, *, length: int, count: int, seed: int, text_length: TextLength) -> Iterator[Sample]:
        """Make ``count`` samples. Raises ConfigError when the task does not fit into ``length`` tokens."""
        ...

    def score(self, sample: Sample, turn: int, output: str) -> float:
        """0 to 1, by the metric of the benchmark's authors. ``output`` is what came after the answer prefix."""
        ...

    def solve(self, sample: Sample, turn: int) -> str:
        """The answer, found by reading the context and the question alone; empty when it is not there."""
        ...
