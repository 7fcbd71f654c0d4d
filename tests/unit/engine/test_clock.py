"""One clock for all of an engine."""

from __future__ import annotations

import ast
import dataclasses
import itertools
import time
from pathlib import Path

import pytest

import kvloom
import tiny
from kvloom.engine.factory import make_engine
from kvloom.engine.params import SamplingParams
from kvloom.policy.retention.lru import LeastRecentlyUsed

GREEDY = SamplingParams(temperature=0.0, max_tokens=4, ignore_eos=True)
PROMPT = tiny.random_prompt(40, 1)
PACKAGE = Path(kvloom.__file__).parent


@dataclasses.dataclass
class Clock:
    """A second passes whenever it is read."""

    seconds: itertools.count = dataclasses.field(default_factory=lambda: itertools.count(1_000_000))
    read: int = 0

    def __call__(self) -> float:
        self.read += 1
        return float(next(self.seconds))


def test_all_times_are_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, made = Clock(), tiny.make_engine()
    engine = make_engine(made.model, made.tokenizer, made.config, made.attend_factory, LeastRecentlyUsed(), clock)
    assert engine.ledger.clock is clock
    with monkeypatch.context() as patch:
        for name in ("monotonic", "perf_counter", "time", "process_time"):
            patch.setattr(time, name, lambda: pytest.fail("another clock was read"))
        done = tiny.run(engine, {"a": PROMPT, "b": PROMPT[:30]}, GREEDY)
        assert engine.stats().seconds.sample == 0, "the forward pass finds what is greedy"
        tiny.run(engine, {"c": PROMPT}, SamplingParams(temperature=1.0, seed=0, max_tokens=2))
    metrics = done["a"].updates[-1].metrics
    moments = [metrics.queue_s, *metrics.token_times_s, metrics.total_s]
    assert all(moment == int(moment) >= 1 for moment in moments)
    assert moments == sorted(moments)
    spent = dataclasses.asdict(engine.stats().seconds)
    assert all(seconds >= 1 for seconds in spent.values()), "and so is the time per phase"
    assert sum(spent.values()) < clock.read


@pytest.mark.parametrize("room", ["engine", "memory", "attend", "policy"])
def test_nobody_reads_a_clock_of_their_own(room: str) -> None:
    """Times come from what is handed in; ``time`` is only named as a default."""
    found = []
    for file in sorted((PACKAGE / room).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module == "time":
                found.append(f"{file.name}:{node.lineno}")
            called = node.func if isinstance(node, ast.Call) else None
            if isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name) and called.value.id == "time":
                found.append(f"{file.name}:{node.lineno}")
    assert found == []
