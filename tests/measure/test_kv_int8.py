"""The claim about KV in int8: any figure that is not met is noticed."""

from __future__ import annotations

import pytest

from bench.claims import kv_int8
from bench.claims.int8_kl import Divergence
from bench.harness import Check, at_least


def measured(
    monkeypatch: pytest.MonkeyPatch, attention: float = 1.7, prompts: float = 1.0, kl: float = 0.001
) -> tuple[bool, float]:
    """Whether the claim holds, and its value, had the figures been these."""

    def check(name: str, value: float, goal: float) -> Check:
        return at_least(name, value, goal, "of the default's rate")

    monkeypatch.setattr(kv_int8, "attention", lambda context, pairs: check("attention", attention, kv_int8.ATTEND_GOAL))
    monkeypatch.setattr(kv_int8, "prompts", lambda length, pairs: check("prompts", prompts, kv_int8.PROMPT_GOAL))
    found = [Divergence("m", "float32", "int8", 768, kl, kl, 0.99, 10.0, 10.0)]
    monkeypatch.setattr(kv_int8, "divergences", lambda name, count, threads, variants: found)
    outcome = kv_int8.measure(quick=True)
    return outcome.holds, outcome.value


def test_holds_when_everything_does(monkeypatch: pytest.MonkeyPatch) -> None:
    assert measured(monkeypatch) == (True, pytest.approx(1.01, abs=0.01))


@pytest.mark.parametrize("fault", [{"attention": 1.5}, {"prompts": 0.9}, {"kl": 0.006}])
def test_one_figure_that_is_not_met_is_noticed(monkeypatch: pytest.MonkeyPatch, fault: dict[str, float]) -> None:
    holds, value = measured(monkeypatch, **fault)
    assert not holds
    assert value < 1
