"""The corpus that ships, and the text files of users."""

from __future__ import annotations

import gzip
import hashlib
import re
import zlib
from collections import Counter
from pathlib import Path

import pytest

from kvloom.errors import DataFileError
from kvloom.eval.corpus import Corpus, essays, read_corpus, shipped_corpus, without
from kvloom.eval.corpus.write import ARCHIVE, GRAMMAR, read_grammar, write_text
from kvloom.eval.tasks.babi_world import GIVERS, PEOPLE, ROOMS, THINGS
from kvloom.eval.tasks.words import NAMES


def text() -> str:
    return gzip.decompress(ARCHIVE.read_bytes()).decode()


def test_it_is_what_its_grammar_writes() -> None:
    assert text() == write_text(read_grammar(GRAMMAR.read_text(encoding="utf-8")))


def test_it_is_large_and_does_not_repeat_itself() -> None:
    sentences = shipped_corpus().sentences
    assert len(text()) >= 300_000
    assert len(set(sentences)) == len(sentences) > 4000
    assert max(map(len, sentences)) < 250
    assert all(sentence[-1] in '."' for sentence in sentences)


def repeated_share(text: str, words: int = 6) -> float:
    """Share of runs of words that occur more than once."""
    found = re.findall(r"\w+", text.lower())
    runs = Counter(tuple(found[n : n + words]) for n in range(len(found) - words + 1))
    return sum(count for count in runs.values() if count > 1) / runs.total()


def test_essays_are_as_dense_as_english_and_annals_are_not() -> None:
    """A compressor is the oracle: English prose keeps about a third of its bytes, six words hardly ever come twice."""
    dense = " ".join(essays().sentences)
    assert len(dense) > 300_000
    assert 0.29 < len(zlib.compress(dense.encode(), 9)) / len(dense) < 0.36
    assert repeated_share(dense) < 0.02
    assert len(zlib.compress(text().encode(), 9)) / len(text()) < 0.2
    assert repeated_share(text()) > 0.5


def test_words_of_essays_follow_zipf() -> None:
    counts = [count for _, count in Counter(re.findall(r"\w+", " ".join(essays().sentences).lower())).most_common()]
    assert 0.04 < counts[0] / sum(counts) < 0.15  # `the`
    assert sum(counts[:100]) / sum(counts) == pytest.approx(0.5, abs=0.1)
    assert len(counts) > 2000


def test_essays_are_sentences_and_stay_as_they_are() -> None:
    sentences = essays().sentences
    assert len(set(sentences)) == len(sentences) >= 6000
    assert all(re.fullmatch(r"[\"A-Z][^.?!]*([,.?]\" \w+ \w+)?[.?]", sentence) for sentence in sentences)
    assert not re.search(r"\b[Aa] [aeiou]|  |\ban [^aeiou]", " ".join(sentences))
    digest = hashlib.sha256(" ".join(sentences).encode()).hexdigest()
    assert digest[:16] == "9b3fd5fa929eef5e"  # or samples of the same seed are others: raise EDITION


def test_no_slot_is_left_open() -> None:
    assert not set("{}[]_") & set(text())


def test_it_holds_none_of_the_words_that_tasks_ask_about() -> None:
    asked = {*NAMES, *PEOPLE, *GIVERS, *ROOMS, *THINGS, "magic", "VAR", "locker"}
    assert without(shipped_corpus(), frozenset(asked)) == shipped_corpus()
    assert without(essays(), frozenset(asked)) == essays()


def test_sentences_with_a_word_are_left_out_whatever_its_case() -> None:
    corpus = Corpus("text", tuple([f"The Kitchen {n}." for n in range(30)] + [f"Kitchens {n}." for n in range(30)]))
    assert without(corpus, frozenset({"kitchen"})).sentences == corpus.sentences[30:]


def test_leaving_out_nearly_everything_is_an_error() -> None:
    with pytest.raises(DataFileError, match="`text`: 0 usable sentences"):
        without(Corpus("text", ("The kitchen.",) * 30), frozenset({"kitchen"}))


def test_a_file_is_split_into_sentences(tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    path.write_text('"Well,"\nshe said. "Is it?" He left.\n\nA title\n\n' + "More of it.\n" * 20)
    corpus = read_corpus(path)
    assert corpus.sentences[:5] == ('"Well," she said.', '"Is it?"', "He left.", "A title", "More of it.")
    assert corpus.name == str(path)


def test_bad_files_are_named_with_the_line(tmp_path: Path) -> None:
    with pytest.raises(DataFileError, match=r"missing\.txt`: cannot be read: No such file"):
        read_corpus(tmp_path / "missing.txt")
    (tmp_path / "binary.txt").write_bytes(b"good\nbad \xff\xfe")
    with pytest.raises(DataFileError, match=r"binary\.txt`, line 2: not UTF-8 text") as caught:
        read_corpus(tmp_path / "binary.txt")
    assert caught.value.line == 2
    (tmp_path / "short.txt").write_text("One sentence.")
    with pytest.raises(DataFileError, match=r"short\.txt`: 1 usable sentences"):
        read_corpus(tmp_path / "short.txt")
