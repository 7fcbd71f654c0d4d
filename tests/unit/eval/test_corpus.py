"""The corpus that ships, and the text files of users."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from kvloom.errors import DataFileError
from kvloom.eval.corpus import Corpus, read_corpus, shipped_corpus, without
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


def test_no_slot_is_left_open() -> None:
    assert not set("{}[]_") & set(text())


def test_it_holds_none_of_the_words_that_tasks_ask_about() -> None:
    asked = {*NAMES, *PEOPLE, *GIVERS, *ROOMS, *THINGS, "magic", "VAR", "locker"}
    assert without(shipped_corpus(), frozenset(asked)) == shipped_corpus()


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
