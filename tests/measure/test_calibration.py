"""The calibration of the judge: it goes on where it was stopped, and what it says of orders and samples is right."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from bench import eval_calibration
from bench.calibration import LOSSES, documents_needed, rank_correlation
from bench.eval_calibration import Calibration, Plan
from kvloom.eval.clusters import clusters_of
from kvloom.eval.fidelity import Passage
from kvloom.eval.paired import detectable, paired
from tiny import random_prompt
from toy_tasks import ToyNeedle, tiny_subject

PLAN = Plan((ToyNeedle(),), (60,), 6, (0.5, 0.9), 1, 120)


@pytest.fixture(autouse=True)
def made_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    passage = Passage(random_prompt(120, 1), 60)
    monkeypatch.setattr(eval_calibration, "recall_passages", lambda subject, size, count: [passage])
    monkeypatch.setattr(eval_calibration, "real_text", lambda: "the quick brown fox jumps over the lazy dog " * 5)


def test_it_is_whole_and_goes_on(tmp_path: Path) -> None:
    first = Calibration(tiny_subject(), PLAN, tmp_path).page()
    for label in (
        "keep_all",
        "keep_none",
        "sink_recent:ratio=0.5,sinks=4",
        "knorm:ratio=0.9",
        "random:ratio=0.9 (3 seeds)",
    ):
        assert first.count(f"`{label}`") >= 1 + 4  # its figures, and a place in each order
    assert "| recall kept and plain KL |" in first
    again = tiny_subject()
    assert Calibration(again, PLAN, tmp_path).page() == first
    assert again.engine.steps == 0
    more = dataclasses.replace(PLAN, samples=7)
    assert Calibration(again, more, tmp_path).page() != first
    assert again.engine.steps > 0


@pytest.mark.parametrize("seed", range(5))
def test_rank_correlation(seed: int) -> None:
    a, b = (np.random.default_rng((seed, n)).permutation(12) for n in range(2))
    closed = 1 - 6 * float(((a - b) ** 2).sum()) / (12 * (12**2 - 1))
    assert rank_correlation(a.tolist(), (10.0**b).tolist()) == pytest.approx(closed)
    tied = np.corrcoef([0.5, 0.5, 2], [0, 1, 2])[0, 1]  # equals share their mean rank
    assert rank_correlation([1, 1, 7], [1, 2, 3]) == pytest.approx(tied)
    assert np.isnan(rank_correlation([1, 1], [1, 2]))


def test_documents_that_a_loss_needs() -> None:
    rng = np.random.default_rng(0)
    found = clusters_of([[(f"{n:03}", (float(rng.choice([0, 0, 0, -1])),)) for n in range(60)]])
    needed = [documents_needed(found, loss) for loss in (*LOSSES, 0.3)]
    assert needed == sorted(needed, reverse=True)
    assert needed[0] > 400 > 60 > needed[-1]
    known = detectable(found)
    assert known is not None
    assert documents_needed(found, known) == pytest.approx(60, abs=2)
    alike = clusters_of([[(f"{n:03}", (0.0,)) for n in range(60)]])
    assert documents_needed(alike, 0.1) < needed[2]
    assert paired(alike).p == 1.0
