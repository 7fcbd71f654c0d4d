"""The claim about kvpress, without kvpress: what ours keep, and that the claim notices when it is false."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from bench.claims import kvpress_agreement
from bench.claims.kvpress_agreement import CASES, RATIOS, Agreement, Case, agreement, ours, outcome_of, theirs
from kvloom.attend.lists import HeadLists
from kvloom.eval.single import SingleSequence
from kvloom.policy.compression import METHODS
from kvloom.policy.compression.uniform import kept_of
from tiny import make_engine, random_prompt

ALIKE, OTHER = Case("KnormPress(ratio)", "knorm"), Case("AgePress(ratio)", "h2o", differs="it looks at age")


def test_agreement_is_of_who_keeps_more() -> None:
    mine, other = np.zeros((2, 1, 2, 10), np.bool_)
    mine[0, 0, :4], other[0, 0, 2:8] = True, True
    assert agreement(mine, other).tolist() == [[2 / 6, 0.0]]
    assert agreement(mine, mine)[0, 0] == 1


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.method)
def test_every_case_is_a_method_of_ours_and_says_why_it_differs(case: Case) -> None:
    assert case.compression.scorer.name in METHODS
    assert not (case.alike and case.differs)
    assert sum(other.press == case.press and not other.differs for other in CASES) <= 1


@pytest.mark.parametrize("length", kvpress_agreement.LENGTHS)
def test_both_round_alike(length: int) -> None:
    assert [kept_of(length, ratio) for ratio in RATIOS] == [int(length * (1 - ratio)) for ratio in RATIOS]


@pytest.mark.parametrize("method", ["knorm", "snapkv:window=4,allocator=adakv", "snapkv:window=4,critical=0.5"])
def test_what_ours_keep_is_what_compression_leaves(method: str) -> None:
    engine, context, case = make_engine((None, None)), random_prompt(70, 1), Case("", method)
    found = ours(SimpleNamespace(loaded=SimpleNamespace(engine=engine)), context, case)
    assert list(found) == list(RATIOS)
    sequence = SingleSequence(engine, 200)
    sequence.watch(case.compression, context)
    sequence.append(context)
    sequence.compress(case.compression)
    lists = [each for of_group in sequence._kv.lists for each in of_group]
    counts = [count for each in lists for count in lists_counts(each)]
    assert sorted(counts) == sorted(found[RATIOS[0]].sum(axis=-1).reshape(-1).tolist())
    assert found[RATIOS[1]].sum() < found[RATIOS[0]].sum()


def lists_counts(lists: HeadLists) -> list[int]:
    """Entries by list."""
    masks_P = lists.masks_P if lists.masks_P is not None else np.full(len(lists.page_ids_P), 0xFFFF, np.uint16)
    by_page = np.array([int(mask).bit_count() for mask in masks_P])
    bounds = lists.bounds_L1.tolist()
    return [int(by_page[start:stop].sum()) for start, stop in pairwise(bounds)]


def test_what_is_alike_must_agree_and_the_rest_is_reported() -> None:
    good = [Agreement(ALIKE, 0.5, 0.96, 0.9), Agreement(OTHER, 0.5, 0.1, 0.0)]
    outcome = outcome_of(good, "0.5.5", quick=False)
    assert outcome.holds
    assert "it looks at age" in outcome.line()
    assert not outcome_of([*good, Agreement(ALIKE, 0.8, 0.94, 0.9)], "0.5.5", quick=False).holds


def test_without_kvpress_nothing_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEERS_DIR", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"bench/peers\.sh kvpress"):
        theirs(tmp_path, [[1, 2]], CASES)
    assert not outcome_of([], "", quick=False).holds
