"""Policies side by side on the real engine: the table, and that nothing is measured twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from bench import policies_on_engine
from bench.claims.asymcache_ttft import traces
from kvloom.policy.cost import PrefillCost
from kvloom.simulate.step_cost import StepCost

FLAT = StepCost(PrefillCost(1e-3, 1e-4, 0.0), PrefillCost(1e-3, 1e-4, 0.0))


def line(ttft_s: float) -> dict[str, float]:
    return {"ttft_s": ttft_s, "ttft_p95_s": 2 * ttft_s, "tpot_s": 0.01, "recompute_s": 10 * ttft_s, "found": 0.25}


FOUND = {
    "a": {"lru": line(4.0), "asymcache": line(2.0), "fifo": line(5.0)},
    "b": {"lru": line(1.0), "asymcache": line(0.5)},
}


def test_the_table_has_who_served_every_trace() -> None:
    rows = policies_on_engine.table(FOUND, ["lru", "fifo", "asymcache"]).splitlines()[2:]
    assert rows == [
        "| lru | 1.00 | 1.00 1.00 | 2.500 | 5.000 | 10.0 | 25.0 | 25.0% |",
        "| asymcache | 2.00 | 2.00 2.00 | 1.250 | 2.500 | 10.0 | 12.5 | 25.0% |",
    ]


def test_what_is_on_record_is_not_measured_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def never(*args: object) -> Callable[[], None]:
        raise AssertionError("measured again")

    monkeypatch.setattr(policies_on_engine, "costs_at", lambda place: FLAT)
    monkeypatch.setattr(policies_on_engine, "served", never)
    names = [f"{trace.name}, {number}" for number, trace in enumerate(traces(quick=False)[:2])]
    record = [json.dumps([name, policy, line(1.0)]) for name in names for policy in ("lru", "fifo")]
    (tmp_path / "on-engine.jsonl").write_text("\n".join(record) + "\n", encoding="utf-8")
    out = tmp_path / "out"
    policies_on_engine.main(["--place", str(tmp_path), "--traces", "2", "--policies", "lru,fifo", "--out", str(out)])
    assert "| fifo | 1.00 | 1.00 1.00 |" in (out / "retention-on-the-engine.md").read_text("utf-8")
