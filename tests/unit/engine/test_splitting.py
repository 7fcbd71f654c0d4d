"""Documents become passages: all of the text, none too long, cut where it hurts least."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvloom.engine.chunks import split
from kvloom.errors import ConfigError


def words(text: str) -> int:
    return len(text.split())


def bare(text: str) -> str:
    return "".join(text.split())


def test_neighbouring_paragraphs_stay_together_as_long_as_they_fit() -> None:
    text = "one two\n\nthree four\n \n\nfive six seven\n\neight"
    assert split(text, 4, words) == ["one two\n\nthree four", "five six seven\n\neight"]
    assert split(text, 8, words) == [text]
    assert split(text, 3, words) == ["one two", "three four", "five six seven", "eight"]


def test_what_is_too_long_is_cut_at_lines_then_sentences_then_words() -> None:
    assert split("a b\nc d\ne f", 4, words) == ["a b\nc d", "e f"]
    assert split("A b. C d! E f 3.14? G", 4, words) == ["A b. C d!", "E f 3.14? G"]
    assert split("a b c d e", 2, words) == ["a b", "c d", "e"]
    assert split("一二。三四。五", 3, len) == ["一二。", "三四。", "五"]
    assert split("a \nb", 2, len) == ["a", "b"]
    assert split("a \n \nb", 3, len) == ["a", "b"]


def test_a_paragraph_that_fits_is_never_cut() -> None:
    text = "a b c\n\n" + " ".join("xyz" * 7) + "\n\nd e f"
    passages = split(text, 4, words)
    assert passages[0] == "a b c"
    assert passages[-1] == "d e f"


def test_words_without_an_end_are_cut_anywhere() -> None:
    passages = split("x" * 1000, 7, len)
    assert "".join(passages) == "x" * 1000
    assert max(map(len, passages)) <= 7


def test_nothing_is_nothing_and_too_little_is_refused() -> None:
    assert split("", 5, len) == split(" \n\n ", 5, len) == []
    with pytest.raises(ConfigError, match="at least one token"):
        split("a", 0, len)
    with pytest.raises(ConfigError, match="one character"):
        split("ab", 1, lambda text: 2 * len(text))


TEXTS = st.text(st.sampled_from("ab. \n!é。"), max_size=200)


@given(text=TEXTS, limit=st.integers(1, 30))
def test_all_of_the_text_in_order_and_nothing_too_long(text: str, limit: int) -> None:
    passages = split(text, limit, len)
    assert bare("".join(passages)) == bare(text)
    assert all(0 < len(passage) <= limit and passage == passage.strip() for passage in passages)
    at = 0
    for passage in passages:
        at = text.index(passage, at) + len(passage)  # every passage is a part of the text as it stands there
