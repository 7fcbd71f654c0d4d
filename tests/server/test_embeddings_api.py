"""Embeddings through the official client."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import httpx2
import numpy as np
import openai
import pytest
from openai import AsyncOpenAI

from kvloom.server.app import create_app

from .conftest import Engines
from .echo_engine import EchoEngine
from .exchange import exchange


async def test_texts_and_token_ids(client: AsyncOpenAI, engine: EchoEngine) -> None:
    reply = await client.embeddings.create(model="mock", input=["one two", "three"])
    assert [entry.index for entry in reply.data] == [0, 1]
    assert (reply.usage.prompt_tokens, reply.usage.total_tokens) == (5, 5)
    vectors = [entry.embedding for entry in reply.data]
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1.0, abs=1e-6)
    assert vectors[0] != vectors[1]
    ids = engine.prompts[0]
    for same in ([ids], ids, "one two"):
        again = await client.embeddings.create(model="mock", input=same)
        assert again.data[0].embedding == vectors[0], "the same bits in any company"
    await engine.assert_idle()
    assert engine.stats().cache.cached_bytes == 0


async def test_both_encodings_are_the_same_numbers(http: httpx2.AsyncClient) -> None:
    body: dict[str, Any] = {"model": "mock", "input": "one two"}
    plain = (await http.post("/v1/embeddings", json=body)).json()["data"][0]["embedding"]
    packed = (await http.post("/v1/embeddings", json=body | {"encoding_format": "base64"})).json()["data"][0]
    assert np.frombuffer(base64.b64decode(packed["embedding"]), "<f4").tolist() == plain
    sized = await http.post("/v1/embeddings", json=body | {"dimensions": len(plain)})
    assert sized.json()["data"][0]["embedding"] == plain


@pytest.mark.parametrize(
    ("body", "param", "says"),
    [
        ({"input": ""}, "input", "the prompt is empty"),
        ({"input": []}, "input", "the prompt is empty"),
        ({"input": [[]]}, "input", "the prompt is empty"),
        ({"input": 5}, "input", "must be a string, a list of strings"),
        ({"input": [10**6]}, "input", "outside the vocabulary"),
        ({"input": ["a"] * 2049}, "input", "2,049 inputs, at most 2,048 are allowed"),
        ({"input": "w " * 100}, "input", "This model's maximum context length is 64 tokens."),
        ({"dimensions": 3}, "dimensions", "is not supported by this server"),
        ({"encoding_format": "int8"}, "encoding_format", "'float' or 'base64'"),
        ({"truncate_prompt_tokens": 5}, "truncate_prompt_tokens", "is not supported by this server"),
    ],
)
async def test_what_is_wrong_is_named(http: httpx2.AsyncClient, body: Any, param: str, says: str) -> None:
    reply = await http.post("/v1/embeddings", json={"model": "mock", "input": "one"} | body)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)
    assert says in reply.json()["error"]["message"]


async def test_another_model_is_not_found(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        await client.embeddings.create(model="text-embedding-3-small", input="x")


async def test_leaving_aborts(new_engine: Engines) -> None:
    engine = new_engine(held=True)
    async with exchange(create_app(engine), "/v1/embeddings", input=["one", "two"]) as talk:
        while len(engine.live) < 2:
            await asyncio.sleep(0.005)
        talk.leave()
        while engine.live:
            await asyncio.sleep(0.005)
        engine.gate.set()
    assert sorted(engine.aborted) == sorted(engine.seen)
    await engine.assert_idle()
