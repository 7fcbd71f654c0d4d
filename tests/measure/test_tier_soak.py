"""The soak of tiers in short, and that it finds what is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import tiny
from bench.soak_requests import Cold
from bench.tier_soak import Plan, Soak, SoakError, Tally, result
from kvloom.memory.tier.base import TierUsage
from kvloom.memory.tier.warm import WarmTier

PLAN = Plan(length=120, texts=12, kv_dtype="float32", slab_bytes=64 * 1024)


def soak(place: Path, seed: int = 0) -> Soak:
    plan = Plan(length=PLAN.length, texts=PLAN.texts, kv_dtype="float32", slab_bytes=PLAN.slab_bytes, seed=seed)
    return Soak(tiny.make_engine(), place, plan)


def steps(count: int) -> Callable[[Tally], bool]:
    return lambda tally: tally.steps >= count


def test_a_short_soak(tmp_path: Path) -> None:
    """As many seeds as it takes to meet everything: which tiers are there is drawn, and what they are in time for."""
    total = Tally()
    for seed in range(5, 20):  # the first of these has mostly met it all
        tally = soak(tmp_path / str(seed), seed).run(steps(500))
        total.did.update(tally.did)
        total.hit_tokens.update(tally.hit_tokens)
        total.faults.update(tally.faults)
        total.checked += tally.checked
        total.lossy_answers += tally.lossy_answers
        assert 0.5 < tally.fullest["ram"] <= 1
        assert max(tally.fullest.values()) <= 1
        if (
            seed > 5
            and total.lossy_answers
            and all(total.hit_tokens[name] for name in ("ram", "warm", "warm_int8", "disk"))
        ):
            break
    assert total.checked > 80
    assert total.lossy_answers > 0
    assert min(total.hit_tokens[name] for name in ("ram", "warm", "warm_int8", "disk")) > 0
    assert min(total.did[name] for name in ("aborted", "resets", "killed tiers", "restarts")) > 0
    assert total.did["fused"] > 10
    assert len(total.faults) > 5
    written = json.loads(json.dumps(result(tally, PLAN, 1.0)))
    assert written["checked"] == tally.checked
    assert "answers" in tally.line()


def test_a_wrong_answer_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Cold, "answer", lambda self, asked: [0] * asked.tokens)
    with pytest.raises(SoakError, match="is right") as raised:
        soak(tmp_path).run(steps(300))
    assert "seed=0" in raised.value.__notes__[0]


def test_a_byte_too_many_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WarmTier, "usage", lambda self: TierUsage(100, 101, 1, 0))
    with pytest.raises(SoakError, match="101 bytes are in use, 100 were allowed"):
        soak(tmp_path).run(steps(3))
