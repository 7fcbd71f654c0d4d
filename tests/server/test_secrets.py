"""Who may learn what: attackers of every kind against a real engine, with and without a victim beside them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest

import tiny
from kvloom.config import ServerConfig
from kvloom.engine.async_engine import AsyncEngine
from kvloom.server.app import create_app

SECRET = tiny.random_prompt(64, 1)


class Attacker:
    """Asks, and looks at everything that a client or a scraper is told."""

    def __init__(self, engine: AsyncEngine, http: httpx2.AsyncClient) -> None:
        self.engine, self.http = engine, http

    async def ask(self, prompt: list[int], headers: dict[str, str] | None = None, **more: Any) -> int:
        """Returns ``cached_tokens``."""
        body = {"model": "tiny", "prompt": prompt, "max_tokens": 1, "temperature": 0} | more
        reply = await self.http.post("/v1/completions", json=body, headers=headers)
        assert reply.status_code == 200, reply.text
        return int(reply.json()["usage"]["prompt_tokens_details"]["cached_tokens"])

    async def counters(self, headers: dict[str, str] | None = None) -> dict[str, float]:
        """Of misses by reason, from both places."""
        await self.engine.check()  # waits for the end of the step
        cache = (await self.http.get("/cache", headers=headers)).json()["cache"]
        lines = (await self.http.get("/metrics", headers=headers)).text.splitlines()
        scraped = [line.rsplit(" ", 1) for line in lines if line.startswith("kvloom:cache_miss_tokens_total")]
        found = {f"cache {why}": count for why, count in cache["misses_by_why"].items()}
        return found | {name: float(value) for name, value in scraped}


@asynccontextmanager
async def attacker(config: ServerConfig | None = None) -> AsyncIterator[Attacker]:
    engine = AsyncEngine.over(tiny.make_engine(), tiny.CharTokenizer(), "tiny")
    transport = httpx2.ASGITransport(create_app(engine, config))
    try:
        async with httpx2.AsyncClient(transport=transport, base_url="http://kvloom") as http:
            yield Attacker(engine, http)
    finally:
        engine.close()


def learned(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    return {name: after[name] - before.get(name, 0) for name in after if after[name] != before.get(name, 0)}


@pytest.mark.parametrize("decoy", [[], [*SECRET[:10], 5], [*SECRET[:24], 5]], ids=["none", "one page", "two pages"])
async def test_reasons_do_not_tell_of_other_salts(decoy: list[int]) -> None:
    """A right guess counts as a wrong one does, whatever the attacker has stored under a salt of his own."""
    seen = []
    for victim in (True, False):
        async with attacker() as eve:
            await eve.ask(SECRET if victim else tiny.random_prompt(64, 2), cache_salt="victim")
            if decoy:
                await eve.ask(decoy, cache_salt="eve")
            before = await eve.counters()
            assert await eve.ask(SECRET, cache_salt="eve") == len(decoy) - bool(decoy)
            seen.append((learned(before, await eve.counters()), list(await eve.counters())))
            if victim:
                assert "other-salt" in eve.engine.stats().cache.misses_by_why, "the library's own inspection tells"
    assert seen[0] == seen[1]
    assert not any("other-salt" in name for name in seen[0][1])
