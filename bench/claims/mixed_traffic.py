"""mixed-traffic: exact and compressed requests, forks and aborts, in memory far too small for all: each is as if alone.

A real HTTP server on the loopback. Requests of every kind are asked one by one first; then all of them at once, some of
them cut off. Holds when every answer that does not depend on company by its own word is the same as alone, no request
with a budget ever holds more bytes, nothing else goes wrong, memory ran so short that requests were preempted and
squeezed, the ledger's audit passes, and no page is held afterwards.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import httpx2

from bench.claims.storm import served
from bench.harness import Check, Outcome, at_least, note, worst_of
from bench.text import long_text
from kvloom.config import CacheConfig, EngineConfig
from kvloom.engine.async_engine import AsyncEngine
from kvloom.engine.engine import Engine
from kvloom.engine.stats import EngineStats
from kvloom.model.files.store import pull

MODEL = "smollm2-135m-instruct"
KV_BYTES = "48MiB"
CONTEXT = 384
BUDGET_TOKENS = 256
"""So many exact tokens a budget has room for."""

CUT_OFF = 0.2
"""The share of requests that are."""

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Kind:
    """``cache``: the words of ``kvloom.cache``; ``more``: other fields. ``alone``: its answer is to be as if alone."""

    name: str
    cache: Json = field(default_factory=dict)
    more: Json = field(default_factory=dict)
    alone: bool = True


def kinds(engine: Engine) -> list[Kind]:
    """Of every way to be compressed one, and as many that are exact."""

    def of_context(name: str, method: str, ratio: float, **words: Any) -> Kind:
        return Kind(name, {"compression": {"method": method, "ratio": ratio, **words}, "compress_after": CONTEXT})

    within = {"method": "knorm", "budget": engine.layout.peak_bytes(BUDGET_TOKENS)}
    pressed = {"compression": {"method": "keydiff", "ratio": 0.6}, "compress_when": "pressure"}
    guarded = {"compression": {"method": "random", "ratio": 0.9}, "compress_after": CONTEXT, "guard": {}}
    sampled = {"temperature": 0.8, "seed": 11}
    return [
        *(Kind(f"exact-{number}") for number in range(3)),
        Kind("exact, sampled", more=sampled),
        Kind("exact, three answers", more=sampled | {"n": 3}),
        Kind("exact, unread", {"read": False, "write": False}),
        of_context("uneven", "knorm", 0.5, allocator="adakv"),
        of_context("votes", "snapkv", 0.7, critical=0.5),
        of_context("repeated", "kvzip", 0.8, allocator="global"),
        of_context("said", "laq", 0.6),
        of_context("merged", "keydiff", 0.7, compactor="keepkv"),
        of_context("recoded", "knorm", 0.8, compactor="recode"),
        Kind("compressed, three answers", of_context("", "h2o", 0.5).cache, sampled | {"n": 3}),
        Kind("within a budget", {"compression": within}),
        Kind("under pressure", pressed, alone=False),
        Kind("guarded", guarded, alone=False),
    ]


@dataclass(frozen=True, slots=True)
class Question:
    """``patience_s``: when it is cut off; None: it is seen through."""

    kind: Kind
    prompt: tuple[int, ...]
    max_tokens: int
    patience_s: float | None = None

    def body(self, model: str) -> Json:
        asked = {"model": model, "prompt": list(self.prompt), "max_tokens": self.max_tokens, "temperature": 0.0}
        return asked | {"ignore_eos": True, "stream": True, "kvloom": {"cache": self.kind.cache}} | self.kind.more


def questions(text: Sequence[int], of_kinds: Sequence[Kind], per_kind: int, seed: int) -> list[Question]:
    """Contexts on three prefixes, which kinds share, with tails of their own."""
    rng, made = random.Random(seed), []
    for number in range(per_kind):
        family, tail = rng.randrange(3) * 300, rng.randrange(len(text) - CONTEXT)
        context = [*text[family : family + CONTEXT // 2], *text[tail : tail + CONTEXT // 2]]
        for kind in of_kinds:
            start = rng.randrange(len(text) - 32)
            prompt = (*context, *text[start : start + rng.randrange(4, 32)])
            made.append(Question(kind, prompt, rng.randrange(8, 33) + 4 * number))
    return made


@dataclass(slots=True)
class Ceilings:
    """Looks after every step: by how many bytes a request exceeded its budget, or all of them the memory's."""

    engine: Engine
    most_over: int = 0

    def __post_init__(self) -> None:
        step = self.engine.step

        def watched() -> Any:
            updates = step()
            self.most_over = max([self.most_over, *self._over()])
            return updates

        self.engine.step = watched  # type: ignore[method-assign]

    def _over(self) -> Iterator[int]:
        arena = self.engine.ledger.arena
        yield arena.used_bytes - arena.budget_bytes
        for request in self.engine.requests.values():
            if request.cache.budget is not None:
                yield from (sequence.kv.held_bytes - request.cache.budget for sequence in request.sequences)


Answer = dict[int, str]
"""The texts of a request's continuations."""


async def ask(client: httpx2.AsyncClient, model: str, question: Question) -> Answer | None:
    """None: it was cut off. Raises RuntimeError when the server does not answer as it should."""
    try:
        async with asyncio.timeout(question.patience_s):
            return await _read(client, question.body(model))
    except TimeoutError:
        return None


async def _read(client: httpx2.AsyncClient, body: Json) -> Answer:
    texts: Answer = {}
    ended: set[int] = set()
    async with client.stream("POST", "/v1/completions", json=body) as response:
        if response.status_code != httpx2.codes.OK:
            raise RuntimeError(f"status {response.status_code}: {(await response.aread())[:300]!r}")
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line.removeprefix("data: "))
            if "error" in event:
                raise RuntimeError(f"error in a stream: {event['error']}")
            for choice in event["choices"]:
                texts[choice["index"]] = texts.get(choice["index"], "") + choice["text"]
                if choice["finish_reason"] == "length":
                    ended.add(choice["index"])
    if ended != set(range(body.get("n", 1))):
        raise RuntimeError(f"only {ended} ended as they should")
    return texts


@dataclass(slots=True)
class Found:
    """What came of it. ``broken``: what the server said in place of an answer."""

    asked: int = 0
    compared: int = 0
    cut_off: int = 0
    different: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    audit: str = "passes"

    def add(self, question: Question, alone: Answer, heard: Answer | BaseException | None) -> None:
        self.asked += 1
        if isinstance(heard, BaseException):
            self.broken.append(f"{question.kind.name}: {heard}")
        elif heard is None:
            self.cut_off += 1
        elif question.kind.alone:
            self.compared += 1
            self.different[question.kind.name] += heard != alone


async def mixed(engine: AsyncEngine, text: Sequence[int], per_kind: int, rounds: int) -> tuple[Found, int]:
    """What was found, and by how many bytes a budget was exceeded at most."""
    ceilings, found, rng = Ceilings(engine.engine), Found(), random.Random(5)
    asked = questions(text, kinds(engine.engine), per_kind, seed=1)
    limits = httpx2.Limits(max_connections=None)
    async with served(engine) as url, httpx2.AsyncClient(base_url=url, timeout=None, limits=limits) as client:
        alone = [await ask(client, engine.model_name, question) for question in asked]
        assert all(answer is not None for answer in alone)
        note(f"{len(asked)} requests of {len(kinds(engine.engine))} kinds, alone")
        for number in range(rounds):
            await engine.reset_cache()
            order = rng.sample(range(len(asked)), len(asked))
            hasty = {n: rng.uniform(0.05, 0.1 * len(order)) for n in order if rng.random() < CUT_OFF}
            fired = [replace(asked[n], patience_s=hasty.get(n)) for n in order]
            shots = (ask(client, engine.model_name, question) for question in fired)
            heard = await asyncio.gather(*shots, return_exceptions=True)
            for n, question, answer in zip(order, fired, heard, strict=True):
                found.add(question, alone[n] or {}, answer)
            note(f"round {number + 1} of {rounds}: {found.compared} compared, {found.different.total()} different")
        await _settle(engine, found)
    return found, ceilings.most_over


async def _settle(engine: AsyncEngine, found: Found, patience_s: float = 60.0) -> None:
    """Wait until the engine has noticed who left, then audit."""
    deadline = time.monotonic() + patience_s
    while engine.engine.has_work and time.monotonic() < deadline:
        await asyncio.sleep(0.02)
    try:
        await engine.check()
    except Exception as error:
        found.audit = str(error)
    await asyncio.sleep(0.05)  # stats() is as of the end of the last turn


def judged(found: Found, most_over: int, stats: EngineStats) -> Outcome:
    """How many answers were compared is the figure; all the others are to be none."""
    for said in found.broken[:3]:
        note(said)
    different = +found.different
    checks = [
        _none(
            "answers that differ from those alone", different.total(), f"of {found.compared} {dict(different) or ''}"
        ),
        _none("requests that went wrong", len(found.broken), f"of {found.asked}, {found.cut_off} of them cut off"),
        _none("bytes above a budget", max(0, most_over), f"{-most_over} below it at least"),
        _none("audits that fail", int(found.audit != "passes"), found.audit),
        _none("pages held afterwards", stats.cache.held_pages, ""),
        at_least("times that memory ran short", min(1, stats.preemptions, stats.squeezed), 1, "", _shortages(stats)),
    ]
    return worst_of("mixed-traffic", checks, {"compared": found.compared, "asked": found.asked})


def _none(name: str, count: int, remark: str) -> Check:
    return Check(name, count, 0, "", 1.0 if count == 0 else 0.0, remark)


def _shortages(stats: EngineStats) -> str:
    return f"{stats.preemptions} preemptions, {stats.squeezed} squeezed"


async def _measure(engine: AsyncEngine, per_kind: int, rounds: int) -> Outcome:
    text = engine.tokenizer.encode(long_text())
    found, most_over = await mixed(engine, text, per_kind, rounds)
    return judged(found, most_over, engine.stats())


def measure(quick: bool) -> Outcome:
    """Full: six requests of each kind, in four rounds. Quick: two, in one."""
    pull(MODEL)
    engine = AsyncEngine(EngineConfig(model=MODEL, cache=CacheConfig(kv_bytes=KV_BYTES)))
    try:
        return asyncio.run(_measure(engine, 2, 1) if quick else _measure(engine, 6, 4))
    finally:
        engine.close()
