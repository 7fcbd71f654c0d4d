"""The interface of a benchmark: samples from a seed or a file, a score for every answer, and an oracle."""

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
    """The references for the task's metric."""
    max_new_tokens: int
    answer_prefix: str = ""
    """The given beginning of the answer, where it differs from turn to turn; see ``Sample.answer_prefix``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One context and what is asked about it.

    The prompt of a turn is ``context + question + answer_begins(turn)``, concatenated; ``context`` is known, and may be
    compressed, before any question. Several turns may ask about the same context independently: no turn sees another.
    """

    task: str
    index: int
    length: int
    """The target in tokens: the prompt of the longest turn and its ``max_new_tokens`` together, within 2% below."""
    context: str
    turns: tuple[Turn, ...]
    answer_prefix: str = ""
    """The given beginning of every turn's answer. Does not end with a space."""
    facts: Mapping[str, Any]
    """The generator's parameters (depth, needles ...): for reports, never for the oracle."""
    document: str = ""
    """Identifies the text that the sample is about, if other samples may share it; empty: no other sample does.

    All answers about one document are one observation.
    """
    chat: bool = True
    """Whether it may be asked in a chat, rather than be a text to continue, such as few-shot examples or code."""

    def answer_begins(self, turn: int) -> str:
        """The given beginning of the answer to a turn."""
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
