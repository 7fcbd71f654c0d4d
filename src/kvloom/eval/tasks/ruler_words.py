"""Word frequency over the whole context: common words and frequent coded words. Source: RULER, cwe and fwe.

The words in the lists are our own; the prompts around them are in `wording.py`.
"""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from kvloom.eval.task import Sample, Turn
from kvloom.eval.tasks.base import Draft, Room, SeededTask
from kvloom.eval.tasks.scoring import share_contained
from kvloom.eval.tasks.wording import Asking, Wording
from kvloom.eval.tasks.words import ADJECTIVES, NOUNS, dictionary, letters, pairs

COMMON = 10
ASKED_RANK = 4
SHORT_LENGTH = 4096
"""Below this length, common words occur less often, so that there is room for others."""

_EXAMPLE_WORDS = {True: 20, False: 40}
"""Words of the worked example, by whether the list is short."""


@dataclass(frozen=True, slots=True)
class CommonWords(SeededTask):
    """Ten words occur often, all others rarely; the ten are asked for. Preceded by a worked example."""

    words: Wording

    def compose(self, rng: random.Random, index: int, room: Room) -> Draft:
        short = room.length < SHORT_LENGTH
        often, seldom = (6, 1) if short else (30, 3)
        size = _EXAMPLE_WORDS[short]
        words = _draw_words(rng, size + COMMON + _most_entries(room) // seldom)
        shown, common, others = words[:size], words[size : size + COMMON], words[size + COMMON :]
        asking = self.words.common
        example = _example(rng, asking, shown, short)
        turn = Turn(question=asking.question, answers=tuple(common), max_new_tokens=120)
        seed = rng.getrandbits(64)

        def draw(count: int) -> Draft:
            listed = _word_list(common, often, others[:count], seldom, random.Random(seed))
            return Draft(
                context=f"{example}{asking.opening}{listed}",
                turns=(turn,),
                answer_prefix=asking.prefix,
                facts={"common": tuple(common), "other_words": count},
            )

        return room.fit(draw, most=len(others))

    def score(self, sample: Sample, turn: int, output: str) -> float:
        return share_contained(output, sample.turns[turn].answers)

    def solve(self, sample: Sample, turn: int) -> str:
        text = sample.context.rpartition(self.words.common.opening)[2]
        counted = Counter(re.findall(r"\d+\. (\S+)", text))
        return _numbered([word for word, _ in counted.most_common(COMMON)])


def _draw_words(rng: random.Random, count: int) -> list[str]:
    """Distinct words in random order, so that no kind of word is more likely than another to be asked for."""
    known = list(dictionary())
    more = count - len(known)
    pool = known + pairs(rng, more) if more > 0 else known[: max(count, len(ADJECTIVES + NOUNS))]
    return rng.sample(pool, count)


def _most_entries(room: Room) -> int:
    """An upper bound on the entries of a list that fits the room."""
    few = dictionary()[:100]
    return 1 + int(1.2 * room.length * len(few) / room.text_length(_numbered(few)))


def _example(rng: random.Random, asking: Asking, words: list[str], short: bool) -> str:
    """A short list of other words, with its answer."""
    often, seldom = (3, 1) if short else (10, 3)
    listed = _word_list(words[:COMMON], often, words[COMMON:], seldom, rng)
    return f"{asking.opening}{listed}{asking.question}{asking.prefix} {_numbered(words[:COMMON])}\n\n\n"


def _word_list(common: list[str], often: int, others: list[str], seldom: int, rng: random.Random) -> str:
    words = common * often + others * seldom
    rng.shuffle(words)
    return _numbered(words)


def _numbered(words: Sequence[str]) -> str:
    return " ".join(f"{number}. {word}" for number, word in enumerate(words, 1))


@dataclass(frozen=True, slots=True)
class FrequentWords(SeededTask):
    """Coded words with Zipf-distributed counts (exponent 2). The most frequent is noise; the next three are asked for.

    These three occur once more than the law says, so that none of them ties with the fifth in a short text.
    """

    words: Wording

    def compose(self, rng: random.Random, index: int, room: Room) -> Draft:
        vocabulary = _coded_words(rng, max(8, room.length // 50))
        asking = self.words.frequent
        turn = Turn(
            question=asking.question,
            answers=tuple(vocabulary[1:ASKED_RANK]),
            max_new_tokens=50,
        )
        seed = rng.getrandbits(64)

        def draw(count: int) -> Draft:
            words = ["..."] * _zipf_count(count, 1)
            for rank, word in enumerate(vocabulary[1:], 2):
                words += [word] * (_zipf_count(count, rank) + (rank <= ASKED_RANK))
            random.Random(seed).shuffle(words)
            return Draft(
                context=asking.opening + " ".join(words),
                turns=(turn,),
                answer_prefix=asking.prefix,
                facts={"words": count, "vocabulary": len(vocabulary)},
            )

        return room.fit(draw)

    def score(self, sample: Sample, turn: int, output: str) -> float:
        return share_contained(output, sample.turns[turn].answers)

    def solve(self, sample: Sample, turn: int) -> str:
        counted = Counter(re.findall(r"\b[a-z]{6}\b", sample.context.partition("\n\n")[2]))
        return " ".join(word for word, _ in counted.most_common(3))


def _coded_words(rng: random.Random, count: int) -> list[str]:
    words: set[str] = set()
    while len(words) < count:
        words.add(letters(rng, 6).lower())
    return rng.sample(sorted(words), count)


def _zipf_count(total: int, rank: int) -> int:
    """Occurrences of the word with a given rank among ``total`` words: total * rank^-2 / zeta(2)."""
    return int(total * rank**-2 * 6 / math.pi**2)
