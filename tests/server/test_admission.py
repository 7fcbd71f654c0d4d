"""How much one request may ask for, in whose name, and that handing it over lets others live."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx2
import pytest

import tiny
from kvloom.config import ServerConfig
from kvloom.engine.async_engine import AsyncEngine
from kvloom.server.app import create_app

from .conftest import Engines
from .echo_engine import EchoEngine
from .exchange import exchange
from .faulty_engine import FaultyEngine

CHAT = {"messages": [{"role": "user", "content": "hi"}]}


def talk(engine: Any, **settings: Any) -> httpx2.AsyncClient:
    transport = httpx2.ASGITransport(create_app(engine, ServerConfig(**settings)), client=("192.0.2.7", 4711))
    return httpx2.AsyncClient(transport=transport, base_url="http://kvloom")


@pytest.mark.parametrize(
    ("path", "body", "says", "param"),
    [
        ("completions", {"prompt": ["a"] * 9}, "9 prompts with n = 1 make 9 sequences, at most 8", "prompt"),
        ("completions", {"prompt": [[1]] * 3, "n": 3}, "3 prompts with n = 3 make 9 sequences, at most 8", "prompt"),
        ("completions", {"prompt": [1] * 9, "n": 9}, "1 prompts with n = 9 make 9 sequences, at most 8", "n"),
        ("completions", {"prompt": "a", "n": 9}, "make 9 sequences, at most 8", "n"),
        ("chat/completions", CHAT | {"n": 9}, "make 9 sequences, at most 8", "n"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_sequences_are_bounded(
    engine: EchoEngine, path: str, body: dict[str, Any], says: str, param: str, stream: bool
) -> None:
    async with talk(engine, max_request_sequences=8) as http:
        reply = await http.post(f"/v1/{path}", json={"model": "mock", "stream": stream} | body)
        assert reply.status_code == 400
        assert says in reply.json()["error"]["message"]
        assert reply.json()["error"]["param"] == param
        assert engine.seen == []
        for fits in ({"prompt": [1] * 9}, {"prompt": ["a"] * 8}, {"prompt": ["a"] * 4, "n": 2}):
            reply = await http.post("/v1/completions", json={"model": "mock", "max_tokens": 1} | fits)
            assert "sequences" not in reply.text


async def test_requests_go_in_the_name_of_a_key_or_a_connection(new_engine: Engines, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("alice alices-key\n")
    for settings, headers, client in (
        ({}, {}, "192.0.2.7:4711"),
        ({"api_keys_file": str(tmp_path / "keys")}, {"Authorization": "Bearer alices-key"}, "alice"),
    ):
        engine = new_engine()
        async with talk(engine, **settings) as http:
            await http.post("/v1/completions", json={"model": "mock", "prompt": ["a", "b"]}, headers=headers)
        assert engine.clients == [client, client]


async def test_a_large_body_is_handed_over_bit_by_bit(engine: EchoEngine) -> None:
    """The event loop comes to others in between."""
    sizes, before = [], 0
    async with talk(engine) as http:
        body = {"model": "mock", "prompt": [[0, 0]] * 256, "max_tokens": 1}
        answer = asyncio.create_task(http.post("/v1/completions", json=body))
        while not answer.done():
            await asyncio.sleep(0)
            sizes.append(len(engine.seen) - before)
            before = len(engine.seen)
    assert len(answer.result().json()["choices"]) == 256
    assert sum(sizes) == 256
    assert max(sizes) <= 32


async def test_one_fault_among_many_ends_them_all(faulty: FaultyEngine) -> None:
    async with talk(faulty) as http:
        body = {"model": "mock", "prompt": [*["a b c"] * 99, "!crash now"], "max_tokens": 9}
        assert (await http.post("/v1/completions", json=body)).status_code == 500
    await faulty.assert_idle()


async def test_a_flood_of_one_body_does_not_keep_another_client_waiting(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("flood flood-key\nsingle single-key\n")
    engine = AsyncEngine.over(tiny.make_engine(max_seqs=4), tiny.CharTokenizer(), "tiny")
    ended: list[str] = []

    async def ask(http: httpx2.AsyncClient, name: str, prompts: list[list[int]]) -> None:
        body = {"model": "tiny", "prompt": prompts, "max_tokens": 4, "temperature": 0, "ignore_eos": True}
        reply = await http.post("/v1/completions", json=body, headers={"Authorization": f"Bearer {name}-key"})
        assert len(reply.json()["choices"]) == len(prompts)
        ended.append(name)

    try:
        async with talk(engine, api_keys_file=str(tmp_path / "keys")) as http:
            flood = asyncio.create_task(ask(http, "flood", [tiny.random_prompt(30, n) for n in range(200)]))
            while not engine.stats().running:
                await asyncio.sleep(0.001)
            await ask(http, "single", [tiny.random_prompt(30, 999)])
            waiting = engine.stats().waiting
            await flood
    finally:
        engine.close()
    assert ended == ["single", "flood"]
    assert waiting > 100


async def test_as_many_prompts_wait_as_may(new_engine: Engines) -> None:
    """Who comes then is told to come again; those that wait are answered, and those that have begun do not count."""
    engine = new_engine(held=True)
    app = create_app(engine, ServerConfig(max_waiting=2))
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://kvloom") as http:

        async def ask(prompt: Any = "one", stream: bool = False) -> httpx2.Response:
            body = {"model": "mock", "prompt": prompt, "max_tokens": 1, "stream": stream}
            return await http.post("/v1/completions", json=body)

        first = [asyncio.create_task(ask(stream=stream)) for stream in (False, True)]
        while len(engine.live) < 2:
            await asyncio.sleep(0.005)
        for refused in (await ask(), await ask(stream=True), await ask(["one", "two", "three"])):
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
            assert refused.json()["error"]["code"] == "queue_full"
            assert refused.json()["error"]["type"] == "rate_limit_error"
        engine.gate.set()
        assert [(await task).status_code for task in first] == [200, 200]
        assert (await ask(["one", "two", "three"])).status_code == 200, "when nobody else waits, any number may"
        assert (await ask()).status_code == 200


async def test_who_leaves_gives_the_place_back(new_engine: Engines) -> None:
    engine = new_engine(held=True)
    app = create_app(engine, ServerConfig(max_waiting=1))
    async with exchange(app, "/v1/completions", prompt="one", max_tokens=1) as talk:
        while not engine.live:
            await asyncio.sleep(0.005)
        talk.leave()
        while engine.live:
            await asyncio.sleep(0.005)
    async with exchange(app, "/v1/completions", prompt="one", max_tokens=1) as talk:
        engine.gate.set()
        await talk.task
    assert talk.status == 200
