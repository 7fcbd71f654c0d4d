"""Texts to learn from: the user's, or a mixture that every machine has.

The mixture is prose of our own (the corpora of ``eval``, one of them with facts that are stated once), and the source
text of Python's standard library. No task of an evaluation is in it. But the filler of its haystacks, and the texts of
``kvloom eval fidelity`` that are told twice, are prose of the same making: judge what is learned with that in mind.
"""

from __future__ import annotations

import random
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice, zip_longest
from pathlib import Path

from kvloom.errors import DataFileError
from kvloom.eval.corpus import essays, shipped_corpus
from kvloom.eval.recall_texts import recall_passages
from kvloom.eval.subject import Subject

_GOES_ON = 64
_MODULES = ("argparse", "ast", "bisect", "calendar", "csv", "difflib", "heapq", "inspect", "shutil", "statistics")


def mixture(subject: Subject, size: int, count: int, seed: int) -> list[list[int]]:
    """``count`` texts of ``size`` tokens or little less, of all kinds in turn."""
    rng = random.Random(f"texts/{seed}")
    kinds = (_facts(subject, size, seed), _prose(subject, size, rng), _sources(subject, size, rng))
    turns = cycle(kinds)
    return [next(next(turns)) for _ in range(count)]


@dataclass(frozen=True, slots=True)
class Passage:
    """A context, and texts that may follow it, each by itself."""

    context: tuple[int, ...]
    after: tuple[tuple[int, ...], ...]


def passages(subject: Subject, size: int, count: int, seed: int) -> list[Passage]:
    """``count`` contexts of at most ``size`` tokens: two with facts, each stated once more after it, then one of
    another kind that goes on for some tokens.
    """
    rng = random.Random(f"passages/{seed}")
    facts = _with_facts(subject, size, seed)
    others = cycle((_prose(subject, size + _GOES_ON, rng), _sources(subject, size + _GOES_ON, rng)))
    found = []
    for number in range(count):
        if number % 3 < 2:
            found.append(next(facts))
        else:
            tokens = tuple(next(next(others)))
            found.append(Passage(tokens[:-_GOES_ON], (tokens[-_GOES_ON:],)))
    return found


def texts_of(subject: Subject, paths: Sequence[Path], size: int, count: int) -> list[list[int]]:
    """At most ``count`` pieces of ``size`` tokens of text files, of all files alike. Raises DataFileError."""
    pieces = [_pieces(subject, _read(path), size) for path in paths]
    in_turn = (piece for turn in zip_longest(*pieces) for piece in turn if piece is not None)
    found = list(islice(in_turn, count))
    if not found:
        raise DataFileError(
            f"has fewer than {size} tokens", path=paths[0], hint="name a longer text, or a smaller --length"
        )
    return found


def _with_facts(subject: Subject, size: int, seed: int) -> Iterator[Passage]:
    number = 0
    while True:
        (made,) = recall_passages(subject, size, 1, seed=10_000 * (seed + 1) + 5_000 + number)
        again = made.tokens[made.cut :]
        pieces = [tuple(again[start : start + _GOES_ON]) for start in range(0, len(again), _GOES_ON)]
        yield Passage(tuple(made.tokens[: made.cut]), tuple(pieces))
        number += 1


def _facts(subject: Subject, size: int, seed: int) -> Iterator[list[int]]:
    number = 0
    while True:
        (passage,) = recall_passages(subject, 2 * size, 1, seed=10_000 * (seed + 1) + number)
        yield list(passage.tokens[:size])
        number += 1


def _prose(subject: Subject, size: int, rng: random.Random) -> Iterator[list[int]]:
    corpora = cycle((essays(), shipped_corpus()))
    for corpus in corpora:
        sentences = corpus.sentences
        start = rng.randrange(len(sentences) - size // 4)
        tokens = subject.tokenizer.encode(" ".join(sentences[start : start + size // 4]))
        yield tokens[:size]


def _sources(subject: Subject, size: int, rng: random.Random) -> Iterator[list[int]]:
    library = Path(sysconfig.get_path("stdlib"))
    while True:
        text = (library / f"{rng.choice(_MODULES)}.py").read_text(encoding="utf-8")
        start = rng.randrange(max(1, len(text) - 8 * size))
        yield subject.tokenizer.encode(text[start : start + 8 * size])[:size]


def _pieces(subject: Subject, text: str, size: int) -> list[list[int]]:
    tokens = subject.tokenizer.encode(text)
    return [tokens[start : start + size] for start in range(0, len(tokens) - size + 1, size)]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataFileError(f"cannot be read: {error.strerror}", path=path) from error
    except UnicodeDecodeError as error:
        raise DataFileError("not UTF-8 text", path=path, hint="save it as UTF-8") from error
