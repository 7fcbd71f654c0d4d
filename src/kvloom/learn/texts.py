"""Texts to learn from: the user's, or a mixture that every machine has.

The mixture is prose of our own (the corpora of ``eval``, one of them with facts that are stated once), and the source
text of Python's standard library. Nothing of an evaluation's tasks is in it.
"""

from __future__ import annotations

import random
import sysconfig
from collections.abc import Iterator, Sequence
from itertools import cycle, islice, zip_longest
from pathlib import Path

from kvloom.errors import DataFileError
from kvloom.eval.corpus import essays, shipped_corpus
from kvloom.eval.recall_texts import recall_passages
from kvloom.eval.subject import Subject

_MODULES = ("argparse", "ast", "bisect", "calendar", "csv", "difflib", "heapq", "inspect", "shutil", "statistics")


def mixture(subject: Subject, size: int, count: int, seed: int) -> list[list[int]]:
    """``count`` texts of ``size`` tokens or little less, of all kinds in turn."""
    rng = random.Random(f"texts/{seed}")
    kinds = (_facts(subject, size, seed), _prose(subject, size, rng), _sources(subject, size, rng))
    turns = cycle(kinds)
    return [next(next(turns)) for _ in range(count)]


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
