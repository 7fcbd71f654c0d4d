"""The claim about bands: what is timed, and that any figure that is not met is noticed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

import tiny
from bench.claims import bands
from bench.claims.bands import Load, Ran
from dict_tier import DictTier


@pytest.mark.parametrize("count", [1, 2])
def test_the_prompt_is_timed_from_its_arrival_to_its_eighth_token(count: int) -> None:
    engine = tiny.make_engine(bands=count, tiers=[DictTier()])
    found = bands.run(
        engine, tiny.random_prompt(20, 1), tiny.random_prompt(40, 2), Load(length=40, tokens=30, rounds=1)
    )
    assert len(found.answer) == 8
    assert 0 < found.first_s < found.last_s
    assert found.gap_s > 0
    assert found.begun == 0  # there was room for all of it
    assert not engine.has_work


def measured(monkeypatch: pytest.MonkeyPatch, **of_bands: Any) -> bool:
    """Whether the claim holds, had the runs with bands been these."""
    plain = Ran(first_s=9.0, last_s=9.5, gap_s=0.01, answer=(1, 2), begun=0)
    banded = Ran(**{"first_s": 3.0, "last_s": 10.0, "gap_s": 0.02, "answer": (1, 2), "begun": 1} | of_bands)
    quiet = SimpleNamespace(submit=lambda *_, **__: None, requests=(), close=lambda: None)
    monkeypatch.setattr(bands, "pull", lambda name: None)
    monkeypatch.setattr(bands, "load", lambda name: SimpleNamespace())
    monkeypatch.setattr(bands, "contexts", lambda engines, length, count: [[1]] * count)
    monkeypatch.setattr(bands, "engine_of", lambda engines, load, count: SimpleNamespace(count=count, **vars(quiet)))
    monkeypatch.setattr(bands, "run", lambda engine, *_: plain if engine.count == 1 else banded)
    return bands.measure(quick=False).holds


def test_holds_when_everything_does(monkeypatch: pytest.MonkeyPatch) -> None:
    assert measured(monkeypatch)


@pytest.mark.parametrize("fault", [{"first_s": 5.0}, {"answer": (1, 3)}, {"begun": 0}])
def test_does_not_hold_otherwise(monkeypatch: pytest.MonkeyPatch, fault: dict[str, Any]) -> None:
    assert not measured(monkeypatch, **fault)
