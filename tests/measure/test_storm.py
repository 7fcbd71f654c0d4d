"""The storm on a tiny engine, behind a real server on the loopback."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import httpx2

from bench.claims.storm import Aftermath, fire, served, shots, storm
from kvloom.engine.async_engine import AsyncEngine
from tiny import VOCAB, CharTokenizer, make_engine

TEXT = random.Random(9).choices(range(1, VOCAB), k=600)


async def test_a_storm_leaves_nothing_behind() -> None:
    engine = AsyncEngine.over(make_engine(kv_bytes="256KiB"), CharTokenizer(), "tiny")
    try:
        fired = shots(TEXT, 24, seed=4)
        after = await storm(engine, fired)
    finally:
        engine.close()
    assert after.clean
    assert after.endings.total() == 24
    assert after.endings["finished"] >= sum(shot.events is None and shot.patience_s is None for shot in fired)
    assert after.endings["aborted"] > 0


async def test_a_refused_request_counts_as_broken() -> None:
    engine = AsyncEngine.over(make_engine(kv_bytes="256KiB"), CharTokenizer(), "tiny")
    try:
        async with served(engine) as url, httpx2.AsyncClient(base_url=url) as client:
            whole = replace(shots(TEXT, 1, seed=4)[0], events=None, patience_s=None)
            assert await fire(client, "tiny", whole) == "finished"
            assert await fire(client, "tiny", replace(whole, prompt=[])) == "broken"
            assert await fire(client, "another", whole) == "broken"
        stats = engine.stats()
    finally:
        engine.close()
    assert Aftermath(Counter({"finished": 1}), stats, None).clean
    assert not Aftermath(Counter({"finished": 1, "broken": 1}), stats, None).clean
    assert not Aftermath(Counter({"finished": 1}), replace(stats, waiting=1), None).clean
    assert not Aftermath(Counter({"finished": 1}), stats, "a page leaks").clean


def test_shots_are_varied_and_reproducible() -> None:
    made = shots(TEXT, 200, seed=7)
    assert made == shots(TEXT, 200, seed=7)
    assert len({tuple(shot.prompt[:48]) for shot in made}) == 4
    assert 0 < sum(shot.events is None for shot in made) < 200
    assert 0 < sum(shot.patience_s is None for shot in made) < 200
