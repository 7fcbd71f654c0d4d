"""Word frequency over the whole context: common words and frequent coded words. Source: RULER, cwe and fwe.

Words and wording are our own.
"""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from dataclasses import dataclass

from kvloom.eval.task import Sample, Turn
from kvloom.eval.tasks.base import Draft, Room, SeededTask, ask
from kvloom.eval.tasks.scoring import share_contained
from kvloom.eval.tasks.words import ADJECTIVES, NOUNS, letters, pairs

COMMON = 10
ASKED_RANK = 4
SHORT_LENGTH = 4096
"""Below this length lists are shorter, so that the common words leave room for others."""

_ASK_COMMON = ask("Which 10 words occur most often in the list above?")
_COMMON_PREFIX = "Answer: The 10 words that occur most often are:"
_LIST_INSTRUCTION = "Here is a numbered list of words. Some occur more often than others: remember those.\n\n"


@dataclass(frozen=True, slots=True)
class CommonWords(SeededTask):
    """Ten words occur often, all others seldom; name the ten. After one worked example."""

    def compose(self, rng: random.Random, index: int, room: Room) -> Draft:
        short = room.length < SHORT_LENGTH
        often, seldom = (6, 1) if short else (30, 3)
        words = rng.sample(ADJECTIVES + NOUNS, len(ADJECTIVES + NOUNS))
        common, others = words[:COMMON], words[COMMON:] + pairs(rng, room.length // (4 * seldom))
        example = _example(rng, short)
        turn = Turn(question=_ASK_COMMON, answers=tuple(common), max_new_tokens=120)
        seed = rng.getrandbits(64)

        def draw(count: int) -> Draft:
            listed = _word_list(common, often, others[:count], seldom, random.Random(seed))
            return Draft(
                context=f"{example}{_LIST_INSTRUCTION}{listed}",
                turns=(turn,),
                answer_prefix=_COMMON_PREFIX,
                facts={"common": tuple(common), "other_words": count},
            )

        return room.fit(draw, most=len(others))

    def score(self, sample: Sample, turn: int, output: str) -> float:
        return share_contained(output, sample.turns[turn].answers)

    def solve(self, sample: Sample, turn: int) -> str:
        text = sample.context.rpartition(_LIST_INSTRUCTION)[2]
        counted = Counter(re.findall(r"\d+\. (\S+)", text))
        return _numbered([word for word, _ in counted.most_common(COMMON)])


def _example(rng: random.Random, short: bool) -> str:
    """A short list with its answer, of other words."""
    size, often, seldom = (20, 3, 1) if short else (40, 10, 3)
    words = pairs(rng, size)
    listed = _word_list(words[:COMMON], often, words[COMMON:], seldom, rng)
    return f"{_LIST_INSTRUCTION}{listed}{_ASK_COMMON}{_COMMON_PREFIX} {_numbered(words[:COMMON])}\n\n\n"


def _word_list(common: list[str], often: int, others: list[str], seldom: int, rng: random.Random) -> str:
    words = common * often + others * seldom
    rng.shuffle(words)
    return _numbered(words)


def _numbered(words: list[str]) -> str:
    return " ".join(f"{number}. {word}" for number, word in enumerate(words, 1))


@dataclass(frozen=True, slots=True)
class FrequentWords(SeededTask):
    """Coded words by Zipf's law with exponent 2; the most frequent is noise, name the next three.

    These three occur once more than the law says, so that in a short text none of them ties with the fifth.
    """

    def compose(self, rng: random.Random, index: int, room: Room) -> Draft:
        vocabulary = _coded_words(rng, max(8, room.length // 50))
        turn = Turn(
            question=ask("Apart from the dots, which 3 coded words occur most often in the text above?"),
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
                context="Read this coded text and count its words. Ignore the dots.\n\n" + " ".join(words),
                turns=(turn,),
                answer_prefix="Answer: The 3 coded words that occur most often are:",
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
    """Occurrences of the word of a rank among ``total``: total * rank^-2 / zeta(2)."""
    return int(total * rank**-2 * 6 / math.pi**2)
