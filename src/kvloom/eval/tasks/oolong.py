"""Questions about the distribution of many small items. Source of the idea: Oolong (Bertsch et al. 2511.02817), synth.

Items and wording are our own. A rule determines the kind of each item, so that labels are exact. All questions of a
sample share its context.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kvloom.eval.task import Sample, Turn
from kvloom.eval.tasks.base import Draft, Room, SeededTask, ask
from kvloom.eval.tasks.oolong_items import KINDS, Item, ItemStream, parse
from kvloom.eval.tasks.scoring import near_number, only_phrase, same_phrase

_MAX_NEW_TOKENS = 12
_RELATIONS = _MORE, _LESS, _SAME = "more common", "less common", "same frequency"


@dataclass(frozen=True, slots=True)
class Scope:
    """The items that a question is about. ``phrase`` describes them in words, from which the oracle works."""

    phrase: str
    items: tuple[Item, ...]


Scoper = Callable[[Sequence[Item], random.Random], Scope]


def everything(items: Sequence[Item], rng: random.Random) -> Scope:
    return Scope("In all entries", tuple(items))


def one_user(items: Sequence[Item], rng: random.Random) -> Scope:
    """The entries of one of the three users with the most entries."""
    user = rng.choice([user for user, _ in Counter(item.user for item in items).most_common(3)])
    return _scope(items, f"In the entries of user {user}")


def one_side_of_a_date(items: Sequence[Item], rng: random.Random) -> Scope:
    """The entries before a day in the middle, or from that day on."""
    days = sorted(item.day for item in items)
    day = days[len(days) * rng.randint(3, 7) // 10]
    return _scope(items, rng.choice([f"In the entries before {day}", f"In the entries from {day} on"]))


def _scope(items: Sequence[Item], phrase: str) -> Scope:
    user = re.search(r"of user (\d+)", phrase)
    before = re.search(r"before (\S+)", phrase)
    since = re.search(r"from (\S+) on", phrase)
    chosen = tuple(
        item
        for item in items
        if (not user or item.user == user[1])
        and (not before or item.day < before[1])
        and (not since or item.day >= since[1])
    )
    return Scope(phrase, chosen)


@dataclass(frozen=True, slots=True)
class Aggregation(SeededTask):
    """Two counts, a comparison, and the most and the least frequent kind, unless there is a tie."""

    scoper: Scoper

    def compose(self, rng: random.Random, index: int, room: Room) -> Draft:
        seed = rng.getrandbits(64)
        kinds = ", ".join(KINDS)

        def draw(count: int, padding: str = "") -> Draft:
            drawn = random.Random(seed)
            stream = ItemStream(drawn)
            items = [stream.draw() for _ in range(count + 1)]
            asking = random.Random(f"{seed}/questions")
            scope = self.scoper(items, asking)
            lines = "\n".join(item.line for item in items)
            return Draft(
                context=f"Each entry below mentions one thing. Its kind is one of: {kinds}.\n\n{lines}{padding}",
                turns=_turns(scope, asking),
                facts={"entries": len(items), "entries_in_scope": len(scope.items)},
            )

        return room.fit_coarse(draw)

    def score(self, sample: Sample, turn: int, output: str) -> float:
        answer = sample.turns[turn].answers[0]
        if answer.isdigit():
            return near_number(output, int(answer))
        return only_phrase(output, answer, _RELATIONS) if answer in _RELATIONS else same_phrase(output, answer)

    def solve(self, sample: Sample, turn: int) -> str:
        asked = re.search(r"Question: (.*?), (.*)", sample.turns[turn].question)
        items = parse(sample.context)
        if asked is None or not items:
            return ""
        return _answer(asked[2], _counts(_scope(items, asked[1]).items))


def _turns(scope: Scope, rng: random.Random) -> tuple[Turn, ...]:
    counts = _counts(scope.items)
    first, second, third = rng.sample(list(KINDS), 3)
    questions = [_ask_count(first), _ask_count(second), _ask_comparison(second, third)]
    by_count = sorted(counts.values())
    questions += (
        [("which kind is the most frequent?", "The most frequent kind is")] if by_count[-1] > by_count[-2] else []
    )
    questions += (
        [("which kind is the least frequent?", "The least frequent kind is")] if by_count[0] < by_count[1] else []
    )
    return tuple(
        Turn(
            question=ask(f"{scope.phrase}, {question}"),
            answers=(_answer(question, counts),),
            max_new_tokens=_MAX_NEW_TOKENS,
            answer_prefix=f"Answer: {begins}",
        )
        for question, begins in questions
    )


def _ask_count(kind: str) -> tuple[str, str]:
    return f"how many mention something of the kind {kind}? Answer with a number.", "The number is"


def _ask_comparison(kind: str, other: str) -> tuple[str, str]:
    question = f"is the kind {kind} {_MORE} than the kind {other}, {_LESS}, or of the {_SAME}?"
    return question, f"Compared with the kind {other}, the kind {kind} is"


def _answer(question: str, counts: Counter[str]) -> str:
    if "most frequent" in question:
        return max(counts, key=lambda kind: counts[kind])
    if "least frequent" in question:
        return min(counts, key=lambda kind: counts[kind])
    kind, *other = [word for word in re.findall(r"\w+", question) if word in KINDS]
    if not other:
        return str(counts[kind])
    difference = counts[kind] - counts[other[0]]
    return _MORE if difference > 0 else _LESS if difference < 0 else _SAME


def _counts(items: Sequence[Item]) -> Counter[str]:
    """Number of items of each kind, including kinds without any."""
    counts = Counter(dict.fromkeys(KINDS, 0))
    counts.update(item.kind for item in items)
    return counts
