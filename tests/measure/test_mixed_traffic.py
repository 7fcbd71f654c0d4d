"""Mixed traffic on a tiny engine, behind a real server on the loopback; and that faults would be seen."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator

import httpx2
import pytest

from bench.claims import mixed_traffic
from bench.claims.mixed_traffic import Found, Kind, Question, ask, judged, kinds, mixed, questions
from bench.claims.storm import served
from kvloom.engine.async_engine import AsyncEngine
from tiny import VOCAB, CharTokenizer, make_engine

TEXT = random.Random(9).choices(range(1, VOCAB), k=1200)


@pytest.fixture
def engine() -> Iterator[AsyncEngine]:
    made = AsyncEngine.over(make_engine((None, 64), kv_bytes="512KiB", max_seqs=16), CharTokenizer(), "tiny")
    yield made
    made.close()


async def test_everything_is_as_if_alone(engine: AsyncEngine) -> None:
    found, most_over = await mixed(engine, TEXT, per_kind=2, rounds=1)
    assert found.broken == []
    assert (found.different.total(), found.audit) == (0, "passes")
    assert found.compared + found.cut_off > 24
    assert most_over <= 0
    assert engine.stats().preemptions > 0
    assert engine.stats().cache.held_pages == 0


async def test_what_exceeds_a_budget_is_noticed(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [kind for kind in kinds(engine.engine) if kind.name == "within a budget"]
    monkeypatch.setattr(mixed_traffic, "kinds", lambda engine: made)
    submit = engine.engine.submit

    def tighter(*args: object, **more: object) -> None:
        submit(*args, **more)
        for request in engine.engine.requests.values():
            object.__setattr__(request.cache.compression, "budget", 20_000)  # it goes on with what it began with

    monkeypatch.setattr(engine.engine, "submit", tighter)
    _, most_over = await mixed(engine, TEXT, per_kind=1, rounds=1)
    assert most_over > 0


async def test_what_is_refused_is_an_error(engine: AsyncEngine) -> None:
    async with served(engine) as url, httpx2.AsyncClient(base_url=url) as client:
        odd = Question(Kind("odd", {"compression": {"method": "h3o", "ratio": 0.5}}), (1, 2, 3), 4)
        with pytest.raises(RuntimeError, match="status 400"):
            await ask(client, "tiny", odd)


def test_one_fault_is_enough(engine: AsyncEngine) -> None:
    (question, *_) = questions(TEXT, [Kind("exact")], 1, seed=0)
    stats = engine.stats()
    faults = {
        "answers that differ": lambda found: found.add(question, {0: "a"}, {0: "b"}),
        "requests that went wrong": lambda found: found.add(question, {0: "a"}, RuntimeError("no")),
        "audits that fail": lambda found: setattr(found, "audit", "page 3"),
    }
    for name, fault in faults.items():
        found = Found(different=Counter())
        found.add(question, {0: "a"}, {0: "a"})
        fault(found)
        outcome = judged(found, -5, stats)
        assert not outcome.holds
        assert name in str(outcome.details)
    assert not judged(Found(), 5, stats).holds
