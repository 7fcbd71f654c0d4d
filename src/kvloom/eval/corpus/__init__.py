"""Filler text: a corpus that ships with kvloom, or any text file.

The shipped text, `annals.txt.gz`, was written for this project: `grammar.txt` contains sentence templates of our own,
which `write.py` fills from a seed. `essays.py` generates a second text, as dense as English. Nothing is taken from
other sources; both are under the project's licence.
"""

from __future__ import annotations

import gzip
import re
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

from kvloom.errors import DataFileError
from kvloom.eval.corpus.essays import lexicon, write_sentences

_SHIPPED = Path(__file__).parent / "annals.txt.gz"
_LEAST_SENTENCES = 20
_END = re.compile(r"(?:(?<=[.!?])|(?<=[.!?][\"”’]))\s+(?=[\"“‘A-Z])")


@dataclass(frozen=True, slots=True)
class Corpus:
    """Sentences in reading order. ``name`` identifies the text in reports."""

    name: str
    sentences: tuple[str, ...]


@cache
def shipped_corpus() -> Corpus:
    """The text that ships with kvloom."""
    return Corpus("annals", _sentences(gzip.decompress(_SHIPPED.read_bytes()).decode("utf-8")))


@cache
def essays() -> Corpus:
    """Generated text with the statistics of English."""
    return Corpus("essays", write_sentences(lexicon()))


def read_corpus(path: Path) -> Corpus:
    """Sentences of a UTF-8 text file. Raises DataFileError if it cannot be read or has too few sentences."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataFileError(f"cannot be read: {error.strerror}", path=path) from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise DataFileError("not UTF-8 text", path=path, line=line, hint="save it as UTF-8") from error
    corpus = Corpus(str(path), _sentences(text))
    _enough(corpus)
    return corpus


@lru_cache(maxsize=32)
def without(corpus: Corpus, words: frozenset[str]) -> Corpus:
    """The corpus without the sentences that contain one of ``words`` (single words, ignoring case).

    Raises DataFileError if too few sentences are left.
    """
    unwanted = {word.lower() for word in words}
    kept = tuple(s for s, known in zip(corpus.sentences, _words(corpus), strict=True) if unwanted.isdisjoint(known))
    left = Corpus(corpus.name, kept)
    _enough(left)
    return left


@lru_cache(maxsize=8)
def _words(corpus: Corpus) -> tuple[frozenset[str], ...]:
    return tuple(frozenset(re.findall(r"\w+", sentence.lower())) for sentence in corpus.sentences)


def _enough(corpus: Corpus) -> None:
    if len(corpus.sentences) < _LEAST_SENTENCES:
        raise DataFileError(
            f"{len(corpus.sentences)} usable sentences; filler text needs at least {_LEAST_SENTENCES}",
            path=Path(corpus.name),
            hint="sentences with a word that the task asks about are left out",
        )


def _sentences(text: str) -> tuple[str, ...]:
    """Split at the end of sentences and at blank lines; runs of white space become single spaces."""
    paragraphs = (" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", text))
    return tuple(sentence for paragraph in paragraphs for sentence in _END.split(paragraph) if sentence)
