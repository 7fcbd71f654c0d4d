"""Who may learn what: attackers of every kind against a real engine, with and without a victim beside them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
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


ALICE, BOB = ({"Authorization": f"Bearer {name}-key"} for name in ("alice", "bob"))
PIN = tiny.random_prompt(8, 3)
BEFORE = tiny.random_prompt(20, 4)


@pytest.fixture
def keys(tmp_path: Path) -> str:
    (tmp_path / "keys").write_text("alice alice-key\nbob bob-key\n")
    return str(tmp_path / "keys")


async def read_pin(eve: Attacker, headers: dict[str, str], letters: list[int], **more: Any) -> list[int]:
    """Guess token by token: right is what raises the count of cached tokens."""
    known: list[int] = []
    for _ in PIN:
        told = {letter: await eve.ask([*BEFORE, *known, letter, 92], headers, **more) for letter in letters}
        known.append(max(told, key=lambda letter: told[letter]))
    return known


async def test_prompts_cannot_be_read_across_keys(keys: str) -> None:
    letters = sorted({*PIN, 90} - {92})
    async with attacker(ServerConfig(api_keys_file=keys)) as eve:
        await eve.ask([*BEFORE, *PIN, 1], ALICE)
        assert await read_pin(eve, BOB, letters) != PIN
        assert await eve.ask([*BEFORE, *PIN, 1], ALICE) == len(BEFORE) + len(PIN), "within a key all is as it was"
    async with attacker() as eve:
        await eve.ask([*BEFORE, *PIN, 1])
        assert await read_pin(eve, {}, letters) == PIN, "and without keys: one domain of trust"


async def test_a_salt_of_ones_own_does_not_reach_into_another_key(keys: str) -> None:
    async with attacker(ServerConfig(api_keys_file=keys)) as eve:
        await eve.ask(SECRET, ALICE, cache_salt="same")
        assert await eve.ask(SECRET, BOB, cache_salt="same") == 0
        assert await eve.ask(SECRET, ALICE, cache_salt="other") == 0
        assert await eve.ask(SECRET, ALICE, cache_salt="same") == len(SECRET) - 1


async def test_shared_prefixes_are_told_in_whole_pages(keys: str) -> None:
    """Neither the count nor the reasons tell how much of a page was right."""
    async with attacker(ServerConfig(api_keys_file=keys, share_prefixes=True, open_metrics=True)) as eve:
        await eve.ask([*SECRET, 1], ALICE)
        assert await eve.ask([*SECRET, 1], BOB) == len(SECRET), "shared all the same"
        seen = []
        for right in (16, 17, 24, 31):
            before = await eve.counters()
            wrong = [95 if token != 95 else 94 for token in SECRET[right:48]]
            assert await eve.ask([*SECRET[:right], *wrong], BOB, cache_salt=None) == 16
            seen.append(learned(before, await eve.counters()))
        assert seen == seen[:1] * 4
        assert await read_pin(eve, BOB, sorted({*PIN, 90} - {92})) != PIN
