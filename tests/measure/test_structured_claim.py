"""The claim ``structured`` in small: it measures what it says, and fails when that is false."""

from __future__ import annotations

from itertools import cycle
from typing import Any

import pytest

from bench.claims import structured
from kvloom.engine.grammar import Constraint
from tiny import VOCAB, Engine, make_engine, random_prompt


class TinyEngines:
    def make(self, kv_bytes: str) -> Engine:
        return make_engine()

    def encode(self, text: str) -> list[int]:
        return random_prompt(12, 1)


def test_answers_are_judged_and_streams_are_timed() -> None:
    engines: Any = TinyEngines()
    assert structured.valid(engines, 2).value == 1.0
    check = structured.cost(make_engine(), random_prompt(12, 1), 2, 6, 1, 0.0)
    assert check.value > 0
    assert "2 greedy" in check.name


def test_an_answer_without_its_form_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    seven = ord("7") - 32
    over = cycle([False, True])

    def anything(self: Constraint) -> Any:
        import numpy as np

        return np.arange(VOCAB) == seven

    def take(self: Constraint, token: int) -> None:
        self.over = next(over)

    monkeypatch.setattr(Constraint, "allowed", anything)
    monkeypatch.setattr(Constraint, "take", take)
    engines: Any = TinyEngines()
    assert structured.valid(engines, 1).value < 1.0


def test_a_form_that_costs_too_much_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    times = cycle([10.0, 12.0])
    monkeypatch.setattr(structured, "token_ms", lambda *_: next(times))
    check = structured.cost(make_engine(), [1], 1, 4, 3, 1.0)
    assert check.value == pytest.approx(1.2)
    assert not check.holds
