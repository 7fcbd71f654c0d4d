"""Shared by the public tasks: items become samples, and the middle of a long context is left out."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kvloom.errors import ConfigError
from kvloom.eval.task import Sample, TextLength, Turn, document_id

_CHARACTERS_PER_TOKEN = 8
"""Initial guess of characters per token, doubled while the text fits: tokenizing whole books is slow."""

_AFTER = 200
"""Characters that follow a planted text: the end of a context is easily kept."""

_SPARE = 4
"""Tokens reserved for the beginning-of-text token, and for boundaries that tokenize differently."""

Metric = Callable[[str, Sequence[str], Mapping[str, Any]], float]
"""(output, answers, facts) -> score from 0 to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One question of a public data set.

    ``before`` precedes the context and is never cut. The last line of ``question``, if it does not end with a line
    break, is the beginning of the answer. ``planted``: (depth from 0 to 1, text); the text is inserted into the context
    as a line of its own after the context has been cut.
    """

    before: str = ""
    context: str
    question: str
    answers: tuple[str, ...]
    planted: tuple[float, str] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class PublicTask:
    """A part of a public benchmark. Implements ``run.Benchmark``.

    ``length`` limits the tokens of prompt and answer. Contexts that are too long lose their middle, as in LongBench;
    shorter ones stay as they are. ``chat``: see ``Sample``.
    """

    group: str
    part: str
    read: Callable[[], Sequence[Item]]
    metric: Metric
    max_new_tokens: int
    chat: bool = True

    @property
    def name(self) -> str:
        return f"{self.group}/{self.part}"

    def samples(self, *, length: int, count: int, seed: int, text_length: TextLength) -> Iterator[Sample]:
        """The first ``count`` items in an order drawn from the seed. Raises ConfigError if one does not fit."""
        items = self.read()
        order = list(range(len(items)))
        random.Random(seed).shuffle(order)
        for index in order[:count]:
            item = items[index]
            planted = "" if item.planted is None else item.planted[1]
            fixed = sum(map(text_length, (item.before, planted, item.question))) + self.max_new_tokens + _SPARE
            if length - fixed < length // 4:
                raise ConfigError(f"{self.name}: question and answer alone take {fixed} of {length} tokens")
            yield Sample(
                task=self.name,
                index=index,
                length=length,
                context=item.before + _plant(without_middle(item.context, length - fixed, text_length), item.planted),
                turns=(self._turn(item),),
                facts=item.facts,
                document=document_id(item.context),
                chat=self.chat,
            )

    def score(self, sample: Sample, turn: int, output: str) -> float:
        return self.metric(output, sample.turns[turn].answers, sample.facts)

    def _turn(self, item: Item) -> Turn:
        before, line_break, last = item.question.rpartition("\n")
        return Turn(
            question=before + line_break,
            answers=item.answers,
            max_new_tokens=self.max_new_tokens,
            answer_prefix=last,
        )


def _plant(text: str, planted: tuple[float, str] | None) -> str:
    """Insert a line at the last line break, or else the last space, before its depth. Some text always follows it."""
    if planted is None:
        return text
    at = round(planted[0] * (len(text) - min(_AFTER, len(text) // 4)))
    place = max(text.rfind("\n", 0, at), 0) or max(text.rfind(" ", 0, at), 0)
    return f"{text[:place]}\n{planted[1]}\n{text[place:].lstrip()}"


def without_middle(text: str, room: int, text_length: TextLength) -> str:
    """The text if it has at most ``room`` tokens, otherwise as much of its beginning and end as fits, in halves."""
    low, high = 0, max(1, room) * _CHARACTERS_PER_TOKEN
    while high < len(text) and text_length(_ends(text, high)) <= room:
        low, high = high, 2 * high
    if high >= len(text):
        if text_length(text) <= room:
            return text
        high = len(text)
    while high - low > max(1, high // 500):
        middle = (low + high) // 2
        low, high = (middle, high) if text_length(_ends(text, middle)) <= room else (low, middle)
    return _ends(text, low)


def _ends(text: str, characters: int) -> str:
    half = characters // 2
    return text[:half] + text[len(text) - half :]
