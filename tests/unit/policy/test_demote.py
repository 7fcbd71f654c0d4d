"""Punctuation and white space that repeats ranks lower, whatever the scorer."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from kvloom.policy.compression import METHODS, Compression, compression_of
from kvloom.policy.compression.base import REQUIRED, Floats, LayerContext
from kvloom.policy.compression.demote import Demote, structure_of
from kvloom.policy.compression.needs import Given, Need
from made_contexts import candidates, contexts

SCORERS = [name for name, method in METHODS.items() if method.ratio is None]


@pytest.mark.parametrize(
    "text", [",", " ,", "...", "\n", "\n\n", "   ", "\t", " (", "\u201d", "\u2014", "\u3002", " \u00a0"]
)
def test_punctuation_and_white_space_that_was_there_before(text: str) -> None:
    texts = ["a", text, "b", text, text]
    assert structure_of([0, 1, 2, 1, 1], texts.__getitem__).tolist() == [False, False, False, True, True]
    assert not structure_of([0, 1, 2], texts.__getitem__).any()


@pytest.mark.parametrize("text", ["a", "3.", " the", "<|im_end|>", "", "\ufffd", "+", "\u4e2d", "\U0001f642", "| a"])
def test_all_else_is_no_structure(text: str) -> None:
    assert not structure_of([7] * 4, lambda token: text).any()


def test_nothing_repeats_in_nothing() -> None:
    assert structure_of([], lambda token: ",").tolist() == []


def ranked_lower(scores_S: list[float], marked_S: list[bool], share: float) -> list[float]:
    """Entry by entry."""
    finite = sorted(score for score in scores_S if np.isfinite(score))
    return [
        finite[int(finite.index(score) * (1 - share))] if marked and np.isfinite(score) else score
        for score, marked in zip(scores_S, marked_S, strict=True)
    ]


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
@pytest.mark.parametrize("name", ["knorm", "h2o", "snapkv", "compactor"])
def test_an_entry_gets_the_score_of_one_that_ranks_so_much_lower(name: str, share: float) -> None:
    (one,) = contexts(1, 3, 90, seed=3)
    assert one.structure_S is not None
    plain_KS, found_KS = (compression_of(name, 0.5, demote=by).scores(one) for by in (0.0, share))
    for plain_S, found_S in zip(plain_KS, found_KS, strict=True):
        wanted = ranked_lower(plain_S.tolist(), one.structure_S.tolist(), share)
        assert np.array_equal(found_S, np.array(wanted, np.float32))
    assert (found_KS < plain_KS).any()


@dataclass(frozen=True)
class Stretched:
    """Another's scores, through a function that rises."""

    name: ClassVar[str] = "stretched"
    needs: ClassVar[frozenset[Need]] = frozenset()
    of: str = "knorm"

    def scores(self, context: LayerContext) -> Floats:
        return np.exp(compression_of(self.of, 0.5).scores(context) / 3) * 1000 - 50


def test_only_the_order_of_scores_decides() -> None:
    (one,) = contexts(1, 2, 80, seed=1)
    chosen = [
        compression.choose(candidates(compression, [one]))[0].kept
        for compression in (compression_of("knorm", 0.5, demote=0.6), Compression(Stretched(), 0.5, demote=Demote(0.6)))
    ]
    assert all(np.array_equal(a, b) for a, b in zip(*chosen, strict=True))


@pytest.mark.parametrize("name", SCORERS)
def test_less_structure_stays_with_any_scorer(name: str) -> None:
    (one,) = contexts(1, 2, 200, seed=8)
    assert one.structure_S is not None
    left = []
    for share in (0.0, 0.5, 1.0):
        compression = compression_of(name, 0.6, demote=share)
        (choice,) = compression.choose(candidates(compression, [one]))
        left.append(sum(int(one.structure_S[head].sum()) for head in choice.kept))
    assert left[0] > left[1] >= left[2]


def test_what_is_required_or_protected_is_not_demoted() -> None:
    (one,) = contexts(1, 2, 50)
    marked = dataclasses.replace(one, structure_S=np.ones(50, np.bool_))
    compression = compression_of("snapkv", 0.6, window=8, demote=1.0, protect="30:33")
    scores_KS = compression.scores(marked)
    assert (scores_KS == REQUIRED).sum() == 2 * 8
    assert len(np.unique(scores_KS[0])) == 2
    (choice,) = compression.choose(candidates(compression, [marked]))
    assert all(set(head.tolist()) == {*range(9), 30, 31, 32, *range(42, 50)} for head in choice.kept)


def test_only_who_asks_for_it_looks_at_texts() -> None:
    assert Given.STRUCTURE not in compression_of("knorm", 0.5).needs
    assert Given.STRUCTURE in compression_of("knorm", 0.5, demote=0.5).needs_to_choose
    assert compression_of("knorm", 0.5, demote=0.5).params == {"demote": 0.5}
