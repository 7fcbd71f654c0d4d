"""Filler text: the corpus that ships with kvloom, or any text file.

Origin of the shipped text, `annals.txt.gz`: written for this project. `grammar.txt` holds sentences of our own with
slots; `write.py` fills them from a seed. `essays.py` writes another, as dense as English. Nothing is taken from
elsewhere; both are under the project's licence.
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
    """Sentences in reading order. ``name`` says which text it is, for reports."""

    name: str
    sentences: tuple[str, ...]


@cache
def shipped_corpus() -> Corpus:
    """The text that ships with kvloom."""
    return Corpus("annals", _sentences(gzip.decompress(_SHIPPED.read_bytes()).decode("utf-8")))


@cache
def essays() -> Corpus:
    """Text with the statistics of English."""
    return Corpus("essays", write_sentences(lexicon()))


def read_corpus(path: Path) -> Corpus:
    """Sentences of a text file in UTF-8. Raises DataFileError when it cannot be read or has too few sentences."""
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
    """The corpus without sentences that hold one of ``words`` (single words, any case).

    Raises DataFileError when too little is left.
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
            hint="sentences that hold a word which the task asks about are left out",
        )


def _sentences(text: str) -> tuple[str, ...]:
    """Split after full stops, question and exclamation marks, and at blank lines; white space becomes one space."""
    paragraphs = (" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", text))
    return tuple(sentence for paragraph in paragraphs for sentence in _END.split(paragraph) if sentence)
