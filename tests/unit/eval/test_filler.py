"""Filling a context: where pieces go, and how many units fit."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvloom.eval.corpus import Corpus, shipped_corpus
from kvloom.eval.tasks.base import largest, spread
from kvloom.eval.tasks.filler import AFTER, NOISE, Haystack, even_depths, insert, noise, noise_lines, random_depths

HAY = ["One two three.", "Four.", "Five six.", "Seven eight nine ten."]


@pytest.mark.parametrize(("depth", "place"), [(0.0, 0), (0.37, 0), (0.38, 1), (0.49, 1), (0.5, 2), (0.99, 3), (1, 3)])
def test_a_piece_goes_to_the_sentence_end_before_its_depth(depth: float, place: int) -> None:
    assert insert(HAY, [(depth, "X")]) == [*HAY[:place], "X", *HAY[place:]]


@given(st.lists(st.sampled_from(HAY), max_size=12), st.lists(st.floats(0, 1), max_size=6))
def test_nothing_is_lost_and_order_is_kept(hay: list[str], depths: list[float]) -> None:
    pieces = [f"piece {n}" for n in range(len(depths))]
    woven = insert(hay, list(zip(sorted(depths), pieces, strict=True)))
    assert [part for part in woven if part.startswith("piece")] == pieces
    assert [part for part in woven if not part.startswith("piece")] == hay


@pytest.mark.parametrize("words", [40, 200, 2000])
def test_hay_follows_a_piece_at_the_very_end(words: int) -> None:
    """Or whoever keeps the most recent tokens, and nothing else, would find it."""
    hay = Haystack(shipped_corpus(), 5).sentences(words)
    before, _, after = " ".join(insert(hay, [(1.0, "NEEDLE")])).partition("NEEDLE")
    assert min(AFTER, words // 4) <= len(after.split()) < AFTER + 60
    assert len(before.split()) + len(after.split()) == words


def test_no_hay_at_all() -> None:
    assert insert([], [(0.5, "X")]) == ["X"]


@given(st.integers(0, 300), st.integers(0, 3))
def test_a_haystack_has_as_many_words_as_asked_for(words: int, start: int) -> None:
    drawn = Haystack(Corpus("hay", tuple(HAY)), start).sentences(words)
    assert len(" ".join(drawn).split()) == words
    assert all(sentence.endswith(".") for sentence in drawn)


def test_a_longer_haystack_extends_a_shorter_one() -> None:
    hay = Haystack(shipped_corpus(), 3)
    assert hay.sentences(200)[:-1] == hay.sentences(400)[: len(hay.sentences(200)) - 1]


def test_noise_is_repeated_line_by_line() -> None:
    assert noise_lines(6) == [" ".join(NOISE), NOISE[0]]
    assert noise(0) == ""
    assert noise(2) == f"\n{NOISE[0]} {NOISE[1]}"


def test_depths_rise_and_differ() -> None:
    drawn = even_depths(random.Random(1), 8)
    assert drawn == sorted(set(drawn))
    assert all(0 <= depth <= 1 for depth in random_depths(random.Random(1), 50))


def test_even_the_first_few_indices_are_spread() -> None:
    places = sorted(spread(index) for index in range(8))
    assert max(b - a for a, b in zip([0.0, *places], [*places, 1.0], strict=True)) < 0.25


@given(st.lists(st.integers(1, 60), min_size=1, max_size=400), st.integers(0, 4000), st.booleans())
def test_as_many_units_as_fit(costs: list[int], limit: int, bounded: bool) -> None:
    calls = 0

    def size(n: int) -> int:
        nonlocal calls
        calls += 1
        return sum(costs[k % len(costs)] for k in range(n))

    most = len(costs) if bounded else None
    n = largest(size, limit, 0, most)
    assert size(n) <= limit
    assert most is None or n <= most
    assert n == most or limit - size(n) < limit / 200 or size(n + 1) > limit
    assert calls <= 45
