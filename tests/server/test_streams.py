"""Streams that break, clients that leave."""

from __future__ import annotations

import asyncio
import json
import random

import httpx2
import openai
import pytest
from fastapi import FastAPI

from kvloom.config import ServerConfig
from kvloom.server.app import create_app

from .exchange import events, exchange
from .mock_engine import MockEngine

ASK = {"prompt": "one two three"}
CHAT = {"messages": [{"role": "user", "content": "one two three"}]}


@pytest.mark.parametrize("word", ["!crash", "!fail"])
async def test_a_fault_in_a_stream_is_its_last_event(faulty: MockEngine, word: str) -> None:
    async with exchange(create_app(faulty), "/v1/completions", prompt=word, stream=True) as talk:
        await talk.task
    *before, last = events(talk.frames)
    assert talk.status == 200
    assert len(before) == 1
    assert last["error"]["type"] == "server_error"
    assert "secret" not in str(last)
    assert faulty.live == set()


async def test_the_client_raises_a_fault_in_a_stream(faulty_http: httpx2.AsyncClient) -> None:
    client = openai.AsyncOpenAI(api_key="none", base_url="http://kvloom/v1", http_client=faulty_http, max_retries=0)
    with pytest.raises(openai.APIError, match="internal error"):
        async for _ in await client.completions.create(model="mock", prompt="!crash", stream=True):
            pass


async def test_a_silent_stream_gets_comments() -> None:
    """While a long prompt is computed; clients skip them, proxies see life."""
    engine = MockEngine(delay_s=0.3)
    app = create_app(engine, ServerConfig(heartbeat_seconds=0.02))
    async with exchange(app, "/v1/completions", **ASK, stream=True, max_tokens=1) as talk:
        await talk.until_frames(2)
        assert talk.status == 200
        assert talk.frames == [b": keep-alive\n\n"] * len(talk.frames)
        await talk.task
    assert [frame for frame in talk.frames if frame.startswith(b"data: ")][-1] == b"data: [DONE]\n\n"


async def test_a_fault_after_a_silence_is_the_last_event() -> None:
    engine = MockEngine(delay_s=0.3)
    app = create_app(engine, ServerConfig(heartbeat_seconds=0.02))
    async with exchange(app, "/v1/completions", prompt="!crash", stream=True) as talk:
        await talk.task
    *_, last = [frame for frame in talk.frames if frame.startswith(b"data: ")]
    assert "error" in json.loads(last.removeprefix(b"data: "))
    assert b": keep-alive\n\n" in talk.frames


async def test_a_lively_stream_gets_no_comments(app: FastAPI) -> None:
    async with exchange(app, "/v1/completions", **ASK, stream=True, max_tokens=3) as talk:
        await talk.task
    assert all(frame.startswith(b"data: ") for frame in talk.frames)


async def test_done_ends_a_stream(app: FastAPI) -> None:
    async with exchange(app, "/v1/chat/completions", **CHAT, stream=True, max_tokens=2) as talk:
        await talk.task
    assert events(talk.frames)[-1] == "[DONE]"


@pytest.mark.parametrize(("path", "body"), [("/v1/completions", ASK), ("/v1/chat/completions", CHAT)])
async def test_leaving_a_stream_aborts(path: str, body: dict[str, object]) -> None:
    engine = MockEngine(delay_s=0.005, max_model_len=10_000)
    async with exchange(create_app(engine), path, **body, stream=True, max_tokens=5000) as talk:
        await talk.until_frames(3)
        assert len(engine.live) == 1
    assert engine.live == set()
    assert engine.aborted == engine.seen


async def test_leaving_before_the_first_token_aborts() -> None:
    engine = MockEngine(delay_s=60)
    for stream in (False, True):
        async with exchange(create_app(engine), "/v1/completions", **ASK, stream=stream) as talk:
            while not engine.live:
                await asyncio.sleep(0.001)
        assert talk.frames == []
        assert engine.live == set()
    assert engine.aborted == engine.seen
    assert len(engine.seen) == 2


async def test_leaving_aborts_every_prompt_and_choice() -> None:
    engine = MockEngine(delay_s=0.005, max_model_len=10_000)
    body = {"prompt": ["a", "b", "c"], "n": 2, "max_tokens": 5000}
    async with exchange(create_app(engine), "/v1/completions", **body, stream=True) as talk:
        await talk.until_frames(4)
        assert len(engine.live) == 3
    assert engine.live == set()
    assert len(engine.aborted) == 3


async def test_one_bad_prompt_aborts_its_siblings() -> None:
    engine = MockEngine(delay_s=0.01)
    body = {"prompt": ["fine", "word " * 100, "fine"], "max_tokens": 50}
    async with exchange(create_app(engine), "/v1/completions", **body, stream=True) as talk:
        await talk.task
    assert talk.status == 400
    assert engine.live == set()
    assert len(engine.aborted) == len(engine.seen) <= 2


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_that_outlives_the_server_is_told(stream: bool) -> None:
    """Uvicorn cancels the tasks of requests that are not over when the drain time is."""
    engine = MockEngine(delay_s=0.005, max_model_len=10_000)
    async with exchange(create_app(engine), "/v1/completions", **ASK, stream=stream, max_tokens=5000) as talk:
        while not engine.live or (stream and len(talk.frames) < 2):
            await asyncio.sleep(0.001)
        talk.task.cancel()
        await talk.task
        assert engine.live == set()
        assert engine.aborted == engine.seen
    said = events(talk.frames)[-1] if stream else json.loads(b"".join(talk.frames))
    assert said["error"]["code"] == "server_stopping"
    assert talk.status == (200 if stream else 503)


async def test_storm() -> None:
    """A hundred streams, a third of whose clients leave at random: nothing leaks, the rest get it all."""
    engine = MockEngine(delay_s=0.001, max_model_len=10_000)
    app = create_app(engine)
    rng = random.Random(0)

    async def visit(number: int) -> bool:
        leaves_after = rng.randrange(0, 12) if rng.random() < 0.35 else None
        tokens = rng.randrange(12, 20)
        chat = rng.random() < 0.5
        body = (
            {"messages": [{"role": "user", "content": f"word{number} x y"}]} if chat else {"prompt": f"word{number} x"}
        )
        path = "/v1/chat/completions" if chat else "/v1/completions"
        usage = {"stream_options": {"include_usage": True}}
        async with exchange(app, path, **body, **usage, max_tokens=tokens, stream=True) as talk:
            if leaves_after is not None:
                await talk.until_frames(leaves_after)
                return False
            await talk.task
        *chunks, last, done = events(talk.frames)
        assert done == "[DONE]"
        assert chunks[-1]["choices"][0]["finish_reason"] == "length"
        assert last["usage"]["completion_tokens"] == tokens
        assert f"word{number}" in str(chunks)
        return True

    stayed = await asyncio.gather(*(visit(number) for number in range(100)))
    assert 20 < stayed.count(False) < 50
    assert engine.live == set()
    assert engine.finished["length"] + len(engine.aborted) == len(engine.seen)
    assert engine.finished["length"] >= stayed.count(True)
    assert len(engine.aborted) > 15
    assert asyncio.all_tasks() == {asyncio.current_task()}
