"""Cuts by content: they depend on what is near them, and documents are neither short nor long."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from kvloom.policy.fusion import found_by_content
from kvloom.policy.fusion.boundaries import LONGEST, NEIGHBOURHOOD, REACH, SHORTEST, WINDOW


def text(seed: int, length: int, vocabulary: int = 5000) -> list[int]:
    return random.Random(seed).choices(range(vocabulary), k=length)


texts = st.builds(text, st.integers(0, 10**6), st.integers(0, 2500), st.sampled_from([1, 2, 30, 5000]))


def cuts(tokens: list[int]) -> set[int]:
    spans = found_by_content(tokens)
    return {position for span in spans for position in (span.start, span.stop)}


@given(texts)
def test_documents_lie_side_by_side_and_have_their_lengths(tokens: list[int]) -> None:
    spans = found_by_content(tokens)
    assert all(before.stop == after.start for before, after in pairwise(spans))
    assert all(SHORTEST <= len(span) <= LONGEST for span in spans)
    if spans:
        assert spans[0].start >= REACH
        assert len(tokens) - spans[-1].stop >= REACH


@given(texts, st.data())
def test_what_is_put_in_moves_no_cut_that_is_far_away(tokens: list[int], data: st.DataObject) -> None:
    """Not beyond the neighbourhood, and the stretch between two cuts that it lies in."""
    at = data.draw(st.integers(0, len(tokens)))
    more = data.draw(texts)[: data.draw(st.integers(1, 600))]
    removed = data.draw(st.integers(0, 300))
    changed = tokens[:at] + more + tokens[at + removed :]
    moved = len(changed) - len(tokens)
    before, after = cuts(tokens), cuts(changed)
    assume(before and after)
    low = max((cut for cut in natural(tokens) if cut < at - NEIGHBOURHOOD), default=0)
    assert {cut for cut in before if cut <= low} == {cut for cut in after if cut <= low}
    high = min((cut for cut in natural(tokens) if cut > at + removed + NEIGHBOURHOOD), default=len(tokens))
    assert {cut + moved for cut in before if cut >= high} == {cut for cut in after if cut >= high + moved}


def natural(tokens: list[int]) -> list[int]:
    """Cuts by the definition, one by one: before a token whose window's hash is the greatest for some way around."""
    windows = {tuple(tokens[n : n + WINDOW]) for n in range(len(tokens) - WINDOW + 1)}
    order = {window: hash_of(window) for window in windows}
    hashes = [order[tuple(tokens[n : n + WINDOW])] for n in range(len(tokens) - WINDOW + 1)]
    found = []
    for n in range(REACH, len(hashes) - REACH):
        others = hashes[n - REACH : n] + hashes[n + 1 : n + REACH + 1]
        if hashes[n] > max(others):
            found.append(n + WINDOW - 1)
    return found


def hash_of(window: tuple[int, ...]) -> int:
    total = 0
    for token in window:
        total = (total * 0x9E3779B97F4A7C15 + mixed(token)) % 2**64
    return mixed(total)


def mixed(value: int) -> int:
    value = (value + 0x9E3779B97F4A7C15) % 2**64
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) % 2**64
    return value ^ (value >> 31)


@given(texts)
def test_cuts_are_those_of_the_definition(tokens: list[int]) -> None:
    expected = natural(tokens)
    spans = found_by_content(tokens)
    assert {spans[0].start, spans[-1].stop} == {expected[0], expected[-1]} if spans else len(expected) < 2
    assert set(expected) <= cuts(tokens) or len(expected) < 2


@pytest.mark.parametrize("tokens", [[], [7], [7] * 5000, [1, 2] * 2500, list(range(5)) * 900], ids=len)
def test_a_text_that_repeats_itself_says_nothing(tokens: list[int]) -> None:
    assert found_by_content(tokens) == ()


def test_passages_in_another_order_are_mostly_found() -> None:
    passages = [text(seed, 512) for seed in range(8)]

    def documents(order: list[int]) -> set[tuple[int, ...]]:
        tokens = [token for n in order for token in passages[n]]
        return {tuple(tokens[span.start : span.stop]) for span in found_by_content(tokens)}

    one, other = documents([0, 1, 2, 3, 4, 5, 6, 7]), documents([5, 2, 7, 0, 3, 6, 1, 4])
    assert sum(map(len, one & other)) > 0.6 * 8 * 512
