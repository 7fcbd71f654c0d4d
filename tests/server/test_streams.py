"""Streams that break, clients that leave."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

import httpx2
import openai
import pytest
from fastapi import FastAPI

from kvloom.config import ServerConfig
from kvloom.server.app import create_app

from .conftest import Engines
from .echo_engine import EchoEngine
from .exchange import events, exchange
from .faulty_engine import FaultyEngine

ASK = {"prompt": "one two three"}
CHAT = {"messages": [{"role": "user", "content": "one two three"}]}


@pytest.mark.parametrize("word", ["!crash", "!fail"])
async def test_a_fault_in_a_stream_is_its_last_event(faulty: FaultyEngine, word: str) -> None:
    async with exchange(create_app(faulty), "/v1/completions", prompt=word, stream=True) as talk:
        await talk.task
    *before, last = events(talk.frames)
    assert talk.status == 200
    assert len(before) == 1
    assert last["error"]["type"] == "server_error"
    assert "secret" not in str(last)
    await faulty.assert_idle()


async def test_the_client_raises_a_fault_in_a_stream(faulty_http: httpx2.AsyncClient) -> None:
    client = openai.AsyncOpenAI(api_key="none", base_url="http://kvloom/v1", http_client=faulty_http, max_retries=0)
    with pytest.raises(openai.APIError, match="internal error"):
        async for _ in await client.completions.create(model="mock", prompt="!crash", stream=True):
            pass


async def test_a_silent_stream_gets_comments(new_engine: Engines) -> None:
    """While a long prompt is computed; clients skip them, proxies see life."""
    engine = new_engine(held=True)
    app = create_app(engine, ServerConfig(heartbeat_seconds=0.02))
    async with exchange(app, "/v1/completions", **ASK, stream=True, max_tokens=1) as talk:
        await talk.until_frames(2)
        assert talk.status == 200
        assert talk.frames == [b": keep-alive\n\n"] * len(talk.frames)
        engine.gate.set()
        await talk.task
    assert [frame for frame in talk.frames if frame.startswith(b"data: ")][-1] == b"data: [DONE]\n\n"


async def test_a_fault_after_a_silence_is_the_last_event(faulty: FaultyEngine) -> None:
    faulty.gate.clear()
    app = create_app(faulty, ServerConfig(heartbeat_seconds=0.02))
    async with exchange(app, "/v1/completions", prompt="!crash", stream=True) as talk:
        await talk.until_frames(1)
        faulty.gate.set()
        await talk.task
    *_, last = [frame for frame in talk.frames if frame.startswith(b"data: ")]
    assert "error" in json.loads(last.removeprefix(b"data: "))
    assert talk.frames[0] == b": keep-alive\n\n"


async def test_a_lively_stream_gets_no_comments(app: FastAPI) -> None:
    async with exchange(app, "/v1/completions", **ASK, stream=True, max_tokens=3) as talk:
        await talk.task
    assert all(frame.startswith(b"data: ") for frame in talk.frames)


async def test_done_ends_a_stream(app: FastAPI) -> None:
    async with exchange(app, "/v1/chat/completions", **CHAT, stream=True, max_tokens=2) as talk:
        await talk.task
    assert events(talk.frames)[-1] == "[DONE]"


@pytest.mark.parametrize(("path", "body"), [("/v1/completions", ASK), ("/v1/chat/completions", CHAT)])
async def test_leaving_a_stream_aborts(new_engine: Engines, path: str, body: dict[str, object]) -> None:
    engine = new_engine(pace_s=0.005, max_model_len=8000)
    async with exchange(create_app(engine), path, **body, stream=True, max_tokens=5000) as talk:
        await talk.until_frames(3)
        assert len(engine.live) == 1
    assert engine.live == set()
    assert engine.aborted == engine.seen
    await engine.assert_idle()


async def test_leaving_before_the_first_token_aborts(new_engine: Engines) -> None:
    engine = new_engine(held=True)
    for stream in (False, True):
        async with exchange(create_app(engine), "/v1/completions", **ASK, stream=stream) as talk:
            while not engine.live:
                await asyncio.sleep(0.001)
        assert talk.frames == []
        assert engine.live == set()
    assert engine.aborted == engine.seen
    assert len(engine.seen) == 2
    engine.gate.set()
    await engine.assert_idle()


async def test_leaving_aborts_every_prompt_and_choice(new_engine: Engines) -> None:
    engine = new_engine(pace_s=0.005, max_model_len=8000)
    body = {"prompt": ["a", "b", "c"], "n": 2, "max_tokens": 5000}
    async with exchange(create_app(engine), "/v1/completions", **body, stream=True) as talk:
        await talk.until_frames(4)
        assert len(engine.live) == 3
    assert engine.live == set()
    assert len(engine.aborted) == 3
    await engine.assert_idle()


@pytest.mark.parametrize(
    ("prompts", "settings"),
    [
        (["fine", "word " * 100, "fine"], {}),
        ([[0]] * 40 + [[999]], {}),
        ([[0, 0]] * 40 + [[0]], {"kvloom": {"cache": {"compression": {"method": "keep_all"}, "compress_after": 1}}}),
        ([[0, 0]] * 40 + [[0] * 62], {"kvloom": {"cache": {"compression": {"method": "kvzip", "ratio": 0.5}}}}),
    ],
)
async def test_one_bad_prompt_refuses_them_all(
    engine: EchoEngine, app: FastAPI, prompts: list[object], settings: dict[str, object]
) -> None:
    """Before the first of them has begun to stream, or its status would be 200."""
    async with exchange(app, "/v1/completions", prompt=prompts, stream=True, **settings) as talk:
        await talk.task
    assert talk.status == 400
    assert engine.seen == []


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_that_outlives_the_server_is_told(new_engine: Engines, stream: bool) -> None:
    """Uvicorn cancels the tasks of requests that are not over when the drain time is."""
    engine = new_engine(pace_s=0.005, max_model_len=8000)
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


async def test_storm(new_engine: Engines) -> None:
    """A hundred streams, a third of whose clients leave at random: nothing leaks, the rest get it all.

    Who leaves has asked for more than comes in that time.
    """
    engine = new_engine(pace_s=0.001, max_model_len=8000, vocab_size=200)
    app = create_app(engine)
    rng = random.Random(0)

    async def visit(number: int) -> bool:
        leaves_after = rng.randrange(0, 5) if rng.random() < 0.35 else None
        tokens = rng.randrange(12, 20) if leaves_after is None else 5000
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
        told = "".join(text_of(chunk["choices"][0]) for chunk in chunks).split()
        words = ["<user>", f"word{number}", "x", "y", "<assistant>"] if chat else [f"word{number}", "x"]
        assert told == [words[n % len(words)] for n in range(len(told))]
        return True

    stayed = await asyncio.gather(*(visit(number) for number in range(100)))
    assert 20 < stayed.count(False) < 50
    await engine.assert_idle()
    assert engine.stats().finished["length"] == stayed.count(True) == len(engine.seen) - len(engine.aborted)
    assert len(engine.aborted) > 15
    assert asyncio.all_tasks() == {asyncio.current_task()}


def text_of(choice: dict[str, Any]) -> str:
    return choice["text"] if "text" in choice else choice["delta"].get("content") or ""
