"""The engine on its thread: streams, errors, aborts, and life after a failure."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator
from contextlib import aclosing

import pytest

import tiny
from kvloom.engine.async_engine import AsyncEngine
from kvloom.engine.params import SamplingParams
from kvloom.errors import InternalError, PromptTooLong, RequestError

GREEDY = SamplingParams(temperature=0.0, max_tokens=8, ignore_eos=True)
PROMPT = tiny.random_prompt(40, 1)


def start(**settings: object) -> AsyncEngine:
    return AsyncEngine.over(tiny.make_engine(**settings), tiny.CharTokenizer(), "tiny")


@pytest.fixture
def engine() -> Iterator[AsyncEngine]:
    engine = start()
    yield engine
    engine.close()


async def last(engine: AsyncEngine, prompt: list[int] | str, params: SamplingParams = GREEDY):
    return [output async for output in engine.generate(prompt, params)][-1]


async def test_streams_what_the_oracle_says(engine: AsyncEngine) -> None:
    seen = []
    async for output in engine.generate(PROMPT, GREEDY):
        seen.append((len(output.outputs[0].token_ids), output.finished))
    assert output.outputs[0].token_ids == tiny.oracle((None, None), PROMPT, 8)
    assert output.outputs[0].text == tiny.CharTokenizer().decode(output.outputs[0].token_ids)
    assert seen == [(n, n == 8) for n in range(1, 9)]


async def test_text_is_encoded(engine: AsyncEngine) -> None:
    assert (await last(engine, "hello there")).prompt_token_ids == [ord(c) - 32 for c in "hello there"]


async def test_a_refused_request_raises_before_the_first_update(engine: AsyncEngine) -> None:
    with pytest.raises(PromptTooLong, match="600"):
        await last(engine, [1] * 600)
    with pytest.raises(RequestError, match="empty"):
        await last(engine, [])
    assert (await last(engine, PROMPT)).finished, "and the engine goes on"


async def test_closing_a_stream_aborts(engine: AsyncEngine) -> None:
    forever = SamplingParams(temperature=0.0, max_tokens=400, ignore_eos=True)
    async with aclosing(engine.stream(PROMPT, forever)) as updates:
        async for _ in updates:
            break
    await engine.check()
    assert engine.stats().running == 0
    assert engine.stats().cache.held_pages == 0
    assert engine.stats().finished == {"abort": 1}


async def test_abort_by_id_ends_the_stream(engine: AsyncEngine) -> None:
    forever = SamplingParams(temperature=0.0, max_tokens=400, ignore_eos=True)
    reasons = []
    async for update in engine.stream(PROMPT, forever, "me"):
        reasons += [delta.finish_reason for delta in update.deltas]
        if len(reasons) == 3:
            await engine.abort("me")
    assert reasons[-1] == "abort"
    await engine.abort("nobody")


async def test_a_failing_step_fails_its_requests_and_no_others(engine: AsyncEngine, monkeypatch) -> None:
    model = engine.engine.model
    working = model.logits
    monkeypatch.setattr(model, "logits", lambda hidden: 1 / 0)
    with pytest.raises(InternalError, match="internal error"):
        await last(engine, PROMPT)
    monkeypatch.setattr(model, "logits", working)
    assert (await last(engine, PROMPT)).outputs[0].token_ids == tiny.oracle((None, None), PROMPT, 8)
    await engine.check()
    assert engine.alive


async def test_closing_ends_open_streams_and_refuses_new_ones() -> None:
    engine = start()
    forever = SamplingParams(temperature=0.0, max_tokens=400, ignore_eos=True)
    stream = engine.stream(PROMPT, forever)
    await anext(stream)
    await asyncio.to_thread(engine.close)
    with pytest.raises(InternalError, match="closed"):
        [update async for update in stream]
    with pytest.raises(InternalError, match="closed"):
        await last(engine, PROMPT)


async def test_a_failing_submit_is_told_and_nothing_else_suffers(engine: AsyncEngine, monkeypatch) -> None:
    monkeypatch.setattr(engine.engine, "submit", lambda *a, **k: 1 / 0)
    with pytest.raises(InternalError, match="internal error"):
        await last(engine, PROMPT)
    monkeypatch.undo()
    with pytest.raises(RequestError, match="whole numbers"):
        await last(engine, ["a"])
    assert (await last(engine, PROMPT)).finished


def test_an_event_loop_that_went_away_does_not_take_the_engine_along(engine: AsyncEngine) -> None:
    async def leave() -> None:
        task = asyncio.ensure_future(engine.check())
        await asyncio.sleep(0)
        task.cancel()

    for _ in range(20):
        asyncio.run(leave())
    assert asyncio.run(last(engine, PROMPT)).finished
    assert engine.alive


async def test_closing_twice_and_asking_meanwhile() -> None:
    engine = start()
    asking = [asyncio.ensure_future(last(engine, PROMPT)) for _ in range(20)]
    await asyncio.sleep(0.02)
    await asyncio.gather(asyncio.to_thread(engine.close), asyncio.to_thread(engine.close))
    results = await asyncio.wait_for(asyncio.gather(*asking, return_exceptions=True), timeout=20)
    assert all(isinstance(result, InternalError) or result.finished for result in results)
    with pytest.raises(InternalError, match="closed"):
        await engine.check()


@pytest.mark.parametrize("windows", [(None, None), (24, None)], ids=["dense", "hybrid"])
async def test_storm(windows: tuple[int | None, ...]) -> None:
    """80 streams, a third of them leaving at a random moment, in memory for about three."""
    engine, chance = start(windows=windows, kv_bytes=240_000, step_tokens=32), random.Random(4)
    shared = tiny.random_prompt(48, 5)

    async def client(n: int) -> tuple[int, list[int] | None]:
        prompt = shared[: chance.randrange(1, 48)] + tiny.random_prompt(8, n)
        leave_after = chance.randrange(1, 6) if n % 3 == 0 else None
        await asyncio.sleep(chance.random() * 0.2)
        got: list[int] = []
        async with aclosing(engine.stream(prompt, GREEDY)) as updates:
            async for update in updates:
                got += [token for delta in update.deltas for token in delta.token_ids]
                if leave_after is not None and len(got) >= leave_after:
                    return n, None
        right = len(got) == 8 if n % 4 else got == tiny.oracle(windows, prompt, 8)
        return n, got if right else []

    results = await asyncio.gather(*(client(n) for n in range(80)))
    await engine.check()
    stats = engine.stats()
    engine.close()
    assert [n for n, got in results if got == []] == [], "these got other tokens than alone"
    assert (stats.running, stats.waiting, stats.cache.held_pages) == (0, 0, 0)
    assert sum(stats.finished.values()) == 80


async def test_a_flood_of_commands_does_not_keep_streams_waiting(engine: AsyncEngine, monkeypatch) -> None:
    """Between two steps only so many are carried out."""
    core, submitted, between = engine.engine, engine.engine.submit, []

    def slow(*arguments: object, **named: object) -> None:
        between[-1] += 1
        time.sleep(0.005)
        submitted(*arguments, **named)

    def step() -> list:
        between.append(0)
        return type(core).step(core)

    monkeypatch.setattr(core, "step", step)
    forever = SamplingParams(temperature=0.0, max_tokens=400, ignore_eos=True)
    async with aclosing(engine.stream(PROMPT, forever)) as updates:
        await anext(updates)
        monkeypatch.setattr(core, "submit", slow)
        await asyncio.gather(*(last(engine, [n + 1]) for n in range(40)))
    assert sum(between) == 40
    assert max(between) <= 10
