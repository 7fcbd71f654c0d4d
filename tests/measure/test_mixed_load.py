"""The claim about prompts beside streams: what is measured, and that any figure that is not met is noticed."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

import tiny
from bench.claims import mixed_load
from bench.claims.mixed_load import Load, Ran


def test_the_work_is_all_that_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixed_load, "_SETTLED_S", 0.0)
    monkeypatch.setattr(mixed_load, "STREAMS", 3)
    engine = tiny.make_engine(step_tokens=64, max_decode_slowdown=math.inf)
    streams, long = [tiny.random_prompt(9, n) for n in range(3)], [tiny.random_prompt(100, n) for n in (7, 8)]
    found = mixed_load.run(engine, streams, long, Load(length=100, prompts=2, every=5, tokens=60, rounds=1))
    assert found.output_tokens == 3 * 60 + 2 * 8
    assert len(found.ttft_s) == 2
    assert min(*found.ttft_s, *found.gaps_s) > 0
    assert not engine.has_work
    busy = 2 + 7 + 5 + 7  # steps at most
    assert 3 * 9 <= len(found.gaps_s) <= 3 * busy


def test_streams_that_end_before_the_prompts_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixed_load, "_SETTLED_S", 0.0)
    engine = tiny.make_engine(step_tokens=16)
    with pytest.raises(RuntimeError, match="did not outlast"):
        mixed_load.run(engine, [[1, 2, 3]], [tiny.random_prompt(200, 1)], Load(200, 1, 5, tokens=2, rounds=1))


def measured(monkeypatch: pytest.MonkeyPatch, gap_s: float = 0.2, rate: float = 95.0) -> tuple[bool, float]:
    """Whether the claim holds, and its value, had the figures been these; 0.24 s and 90 a second are asked for."""

    def ran(scheduler: Any, *options: Any) -> Ran:
        if scheduler.max_token_latency_s is None:
            return Ran(1.0, 100, [1.0] * 100, [1.0])
        assert scheduler.max_token_latency_s == pytest.approx(0.24)
        return Ran(1.0, round(rate), [0.1] * 90 + [gap_s] * 10, [2.0])

    monkeypatch.setattr(mixed_load, "pull", lambda name: None)
    monkeypatch.setattr(mixed_load, "load", lambda name: SimpleNamespace())
    monkeypatch.setattr(mixed_load, "contexts", lambda *options: [])
    monkeypatch.setattr(mixed_load, "quiet_s", lambda *options: 0.08)
    monkeypatch.setattr(mixed_load, "engine_with", lambda engines, scheduler: scheduler)
    monkeypatch.setattr(mixed_load, "run", ran)
    outcome = mixed_load.measure(quick=True)
    return outcome.holds, outcome.value


def test_holds_when_everything_does(monkeypatch: pytest.MonkeyPatch) -> None:
    assert measured(monkeypatch) == (True, pytest.approx(1.056, abs=0.01))


@pytest.mark.parametrize("fault", [{"gap_s": 0.25}, {"rate": 85.0}])
def test_one_figure_that_is_not_met_is_noticed(monkeypatch: pytest.MonkeyPatch, fault: dict[str, float]) -> None:
    holds, value = measured(monkeypatch, **fault)
    assert not holds
    assert value < 1
