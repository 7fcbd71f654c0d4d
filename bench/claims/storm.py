"""storm: many concurrent streams with random aborts, in a KV budget far too small for all, and nothing is left behind.

A real HTTP server on the loopback. Holds when every request ends properly (finished, or cut off by us), the ledger's
audit passes, no page is held, and the memory of the process is back where it was.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import httpx2
import uvicorn

from bench.harness import Outcome, note
from bench.text import long_text
from kvloom.config import CacheConfig, EngineConfig
from kvloom.engine.async_engine import AsyncEngine
from kvloom.engine.stats import EngineStats
from kvloom.model.files.store import pull
from kvloom.server.app import create_app

MODEL = "smollm2-135m-instruct"
KV_BYTES = "16MiB"
SLACK_BYTES = 64 * 2**20
"""Growth of resident memory that we put down to allocators and to the clients, who live in this process too."""

Ending = Literal["finished", "aborted", "broken"]


@dataclass(frozen=True, slots=True)
class Shot:
    """One request. ``events``: cut it off after so many; ``patience_s``: or after so long; None: see it through."""

    prompt: list[int]
    max_tokens: int
    seed: int
    events: int | None = None
    patience_s: float | None = None


@dataclass(frozen=True, slots=True)
class Aftermath:
    """How the requests ended, and the engine's state once nobody asks anything of it any more."""

    endings: Counter[Ending]
    stats: EngineStats
    audit: str | None

    @property
    def clean(self) -> bool:
        idle = self.stats.running == self.stats.waiting == self.stats.cache.held_pages == 0
        return not self.endings["broken"] and self.audit is None and idle


def shots(text: Sequence[int], count: int, seed: int) -> list[Shot]:
    """Prompts on four shared prefixes with tails of their own; every second request will be cut off somewhere."""
    rng = random.Random(seed)
    made = []
    for n in range(count):
        family = rng.randrange(4) * 50
        tail = rng.randrange(len(text) - 64)
        prompt = [*text[family : family + 48], *text[tail : tail + rng.randrange(4, 64)]]
        shot = Shot(prompt, rng.randrange(4, 81), seed=n)
        how = rng.randrange(4)
        if how == 0:
            shot = Shot(prompt, shot.max_tokens, n, events=rng.randrange(1, 24))
        elif how == 1:
            shot = Shot(prompt, shot.max_tokens, n, patience_s=rng.uniform(0.0, 0.1 * count))
        made.append(shot)
    return made


@asynccontextmanager
async def served(engine: AsyncEngine) -> AsyncIterator[str]:
    """The engine behind a real server on a free port; yields its URL."""
    config = uvicorn.Config(create_app(engine), host="127.0.0.1", port=0, log_level="warning", lifespan="off")
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
        if task.done():
            task.result()
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        await task


async def fire(client: httpx2.AsyncClient, model: str, shot: Shot) -> Ending:
    """Send one request and read its stream, up to the moment at which it is cut off."""
    try:
        async with asyncio.timeout(shot.patience_s):
            return await _read(client, model, shot)
    except TimeoutError:
        return "aborted"


async def _read(client: httpx2.AsyncClient, model: str, shot: Shot) -> Ending:
    body = {"model": model, "prompt": shot.prompt, "max_tokens": shot.max_tokens, "seed": shot.seed, "stream": True}
    reason, events = None, 0
    async with client.stream("POST", "/v1/completions", json=body | {"ignore_eos": True}) as response:
        if response.status_code != httpx2.codes.OK:
            note(f"status {response.status_code}: {(await response.aread())[:200]!r}")
            return "broken"
        async for line in response.aiter_lines():
            if line == "data: [DONE]":
                return "finished" if reason in ("stop", "length") else "broken"
            if not line.startswith("data: "):
                continue
            event = json.loads(line.removeprefix("data: "))
            if "error" in event:
                note(f"error in a stream: {event['error']}")
                return "broken"
            events += 1
            reason = event["choices"][0]["finish_reason"] or reason
            if shot.events is not None and events >= shot.events and reason is None:
                return "aborted"  # leaving the block closes the connection
    return "broken"  # the stream ended without [DONE]


async def storm(engine: AsyncEngine, fired: Sequence[Shot], settle_s: float = 60.0) -> Aftermath:
    """Fire everything at once; wait until the engine has noticed who left; audit."""
    limits = httpx2.Limits(max_connections=None)
    async with served(engine) as url, httpx2.AsyncClient(base_url=url, timeout=None, limits=limits) as client:
        endings = Counter(await asyncio.gather(*(fire(client, engine.model_name, shot) for shot in fired)))
        deadline = time.monotonic() + settle_s
        while engine.engine.has_work and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        audit = None
        try:
            await engine.check()
        except Exception as error:
            audit = str(error)
        await asyncio.sleep(0.05)  # stats() is as of the end of the last turn
        return Aftermath(endings, engine.stats(), audit)


def resident_bytes() -> int:
    """Physical memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def _measure(engine: AsyncEngine, count: int) -> Outcome:
    text = engine.tokenizer.encode(long_text())
    note("warming up")
    await storm(engine, shots(text, 24, seed=1))
    await engine.reset_cache()
    before = resident_bytes()
    note(f"{count} requests at once, {engine.stats().cache.budget_bytes >> 20} MiB of KV")
    started, first = time.monotonic(), engine.stats()
    after = await storm(engine, shots(text, count, seed=2))
    elapsed = time.monotonic() - started
    await engine.reset_cache()
    growth = resident_bytes() - before
    ended = after.endings["finished"] + after.endings["aborted"]
    holds = after.clean and ended == count and growth < SLACK_BYTES and after.endings["aborted"] > 0
    details = {
        "finished": after.endings["finished"],
        "aborted": after.endings["aborted"],
        "broken": after.endings["broken"],
        "preemptions": after.stats.preemptions - first.preemptions,
        "kv_budget_bytes": after.stats.cache.budget_bytes,
        "held_pages_after": after.stats.cache.held_pages,
        "audit": after.audit or "passes",
        "rss_growth_bytes": growth,
        "rss_growth_limit_bytes": SLACK_BYTES,
        "seconds": round(elapsed, 1),
    }
    return Outcome("storm", ended, count, "requests that ended properly", holds, details)


def measure(quick: bool) -> Outcome:
    """Full: 200 requests. Quick: 40."""
    pull(MODEL)
    engine = AsyncEngine(EngineConfig(model=MODEL, cache=CacheConfig(kv_bytes=KV_BYTES)))
    try:
        return asyncio.run(_measure(engine, 40 if quick else 200))
    finally:
        engine.close()
