"""Haystacks: prose from a corpus or repeated noise, and the insertion of sentences into them."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

from kvloom.eval.corpus import Corpus

NOISE = ("The hill is high.", "The lake is cold.", "The road is long.", "Now we rest.", "Up and down we go.")
"""One line of noise. RULER repeats such a line; these sentences are our own."""

AFTER = 40
"""Words of hay after the last piece: any policy that keeps recent tokens would find a needle at the very end."""

Prose = Callable[[], Corpus]
"""Returns a corpus, which is loaded on first use."""


def noise(sentences: int) -> str:
    """A line break and a line of noise; empty if ``sentences`` is 0."""
    return "\n" + " ".join(noise_sentences(sentences)) if sentences else ""


def noise_sentences(count: int) -> list[str]:
    return [NOISE[n % len(NOISE)] for n in range(count)]


def noise_lines(sentences: int) -> list[str]:
    """Lines of five noise sentences; the last line may be shorter."""
    drawn = noise_sentences(sentences)
    return [" ".join(drawn[n : n + len(NOISE)]) for n in range(0, len(drawn), len(NOISE))]


@dataclass(frozen=True, slots=True)
class Haystack:
    """Endless prose, starting at a random sentence of a corpus."""

    corpus: Corpus
    start: int

    @staticmethod
    def draw(corpus: Corpus, rng: random.Random) -> Haystack:
        return Haystack(corpus, rng.randrange(len(corpus.sentences)))

    def sentences(self, words: int) -> list[str]:
        """Sentences of ``words`` words in total; the last may be cut after a word. Wraps around at the corpus's end."""
        drawn: list[str] = []
        left, place = words, self.start
        counts = _word_counts(self.corpus)
        while left > 0:
            sentence = self.corpus.sentences[place]
            drawn.append(sentence if counts[place] <= left else _cut(sentence, left))
            left -= counts[place]
            place = (place + 1) % len(counts)
        return drawn


def _cut(sentence: str, words: int) -> str:
    return " ".join(islice(sentence.split(), words)).rstrip(".,;:!?") + "."


@lru_cache(maxsize=8)
def _word_counts(corpus: Corpus) -> tuple[int, ...]:
    return tuple(len(sentence.split()) for sentence in corpus.sentences)


def insert(hay: Sequence[str], pieces: Iterable[tuple[float, str]]) -> list[str]:
    """Insert pieces between the sentences of ``hay``, at depths from 0 (before everything) to 1 (near the end).

    A depth is a fraction of the hay's words without the last 40 (without the last quarter, if it is short). A piece is
    inserted at the last sentence boundary at or before its depth. Pieces of equal depth keep their order.
    """
    words = [len(sentence.split()) for sentence in hay]
    total = sum(words) - min(AFTER, sum(words) // 4)
    ends = [0]
    for count in words:
        ends.append(ends[-1] + count)
    places: list[list[str]] = [[] for _ in ends]
    for depth, piece in pieces:
        places[bisect_right(ends, depth * total + 1e-9) - 1].append(piece)
    woven = list(places[0])
    for sentence, after in zip(hay, places[1:], strict=True):
        woven += [sentence, *after]
    return woven


def even_depths(rng: random.Random, count: int, steps: int = 40) -> list[float]:
    """Ascending depths, drawn without replacement from ``steps`` evenly spaced ones from 0 to 1."""
    return sorted(n / (steps - 1) for n in rng.sample(range(steps), count))


def random_depths(rng: random.Random, count: int) -> list[float]:
    """Ascending depths, drawn uniformly and independently."""
    return sorted(rng.random() for _ in range(count))
