"""One context by its segments: of an answer by the id of its reply, or of a text that is stored."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import pytest

from dict_tier import DictTier
from kvloom.engine.engine import Engine
from kvloom.policy.actions import Drop
from kvloom.server.app import create_app
from kvloom.server.edge.keys import Key, Keyring

from .conftest import Engines
from .echo_engine import EchoEngine

KEYS = Keyring((Key("alice", "alices-key"), Key("bob", "bobs-key"), Key("ops", "ops-key", "admin")))
PROMPT = " ".join("abcdefgh"[n % 8] for n in range(40))
TEXT = {"model": "mock", "prompt": PROMPT, "max_tokens": 3}


def client(engine: EchoEngine, key: str | None = None) -> httpx2.AsyncClient:
    """For admins: without keys, everybody on this machine is one."""
    headers = {"x-api-key": key} if key else {}
    app = create_app(engine, keyring=KEYS if key else None)
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://kvloom", headers=headers)


async def shown(http: httpx2.AsyncClient, id: str, **more: Any) -> dict[str, Any]:
    reply = await http.get(f"/cache/contexts/{id}", **more)
    assert reply.status_code == 200, reply.text
    told: dict[str, Any] = reply.json()
    assert told["id"] == id
    return told


async def segments(http: httpx2.AsyncClient, id: str) -> list[dict[str, Any]]:
    """Of the only context of an answer. They cover it, in order."""
    (found,) = (await shown(http, id))["contexts"]
    ends = [0, *(each["stop"] for each in found["segments"])]
    assert [each["start"] for each in found["segments"]] == ends[:-1]
    assert ends[-1] == found["tokens"]
    told: list[dict[str, Any]] = found["segments"]
    return told


async def test_an_answers_context_is_followed_until_it_is_gone(http: httpx2.AsyncClient, engine: EchoEngine) -> None:
    id = (await http.post("/v1/completions", json=TEXT)).json()["id"]
    (found,) = (await shown(http, id))["contexts"]
    assert {name: found[name] for name in ("status", "prompt_tokens", "tokens", "bytes")} == {
        "status": "over",
        "prompt_tokens": 41,
        "tokens": 44,
        "bytes": 0,
    }
    assert await segments(http, id) == [{"start": 0, "stop": 44, "state": "hot", "tier": "ram"}]
    (stored,) = (await http.get("/cache/contexts")).json()["contexts"]
    spans = (await shown(http, stored["id"]))["segments"]
    assert list(spans.values()) == [[{"start": 0, "stop": 43, "tier": "ram"}]], "the last token has no KV"
    await engine.reset_cache()
    assert await segments(http, id) == [{"start": 0, "stop": 44, "state": "missing", "why": "reset"}]
    for gone in (stored["id"], "nothing"):
        reply = await http.get(f"/cache/contexts/{gone}")
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "not_found")


async def test_what_left_memory_for_a_tier_is_there(new_engine: Engines) -> None:
    engine = new_engine(tiers=[DictTier()])
    async with client(engine) as http:
        id = (await http.post("/v1/completions", json=TEXT)).json()["id"]

        await engine.ask(drop_all)
        assert await segments(http, id) == [
            {"start": 0, "stop": 32, "state": "tier", "tier": "disk"},
            {"start": 32, "stop": 44, "state": "missing", "why": "evicted"},
        ]
        id = (await http.post("/v1/completions", json=TEXT)).json()["id"]
        told = (await http.get(f"/cache/requests/{id}")).json()["prompts"][0]
        assert told["reused"] == [{"start": 0, "stop": 32, "tier": "disk", "lossy": False}]


def drop_all(engine: Engine) -> None:
    assert engine.tiers.flush(10)
    for page in engine.ledger.droppable():
        engine.ledger.apply(Drop(page))


async def test_a_request_that_runs_is_told_of_by_the_id_that_its_reply_will_have(new_engine: Engines) -> None:
    engine = new_engine(pace_s=0.02)
    async with client(engine) as http:
        asking = asyncio.create_task(http.post("/v1/completions", json=TEXT | {"max_tokens": 20}))
        async with asyncio.timeout(10):
            while not (engine.seen and engine.stats().running):
                await asyncio.sleep(0.01)
        id = engine.seen[0].rpartition("-")[0]
        (found,) = (await shown(http, id))["contexts"]
        assert (found["status"], found["bytes"] > 0) == ("running", True)
        assert found["segments"][-1]["state"] == "computing"
        assert (await asking).json()["id"] == id


async def test_every_prompt_of_a_body_has_a_context(http: httpx2.AsyncClient) -> None:
    id = (await http.post("/v1/completions", json=TEXT | {"prompt": ["a b", "c d e"]})).json()["id"]
    told = (await shown(http, id))["contexts"]
    assert sorted(each["prompt_tokens"] for each in told) == [3, 4]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": PROMPT}], "max_tokens": 3}),
        ("/v1/responses", {"input": PROMPT, "max_output_tokens": 3}),
        ("/v1/messages", {"messages": [{"role": "user", "content": PROMPT}], "max_tokens": 3}),
    ],
)
async def test_replies_of_every_dialect_have_such_ids(
    http: httpx2.AsyncClient, path: str, body: dict[str, Any]
) -> None:
    id = (await http.post(path, json=body | {"model": "mock"})).json()["id"]
    assert {each["state"] for each in await segments(http, id)} == {"hot"}


async def test_others_contexts_are_not_there(engine: EchoEngine) -> None:
    async with client(engine, "alices-key") as http:
        id = (await http.post("/v1/completions", json=TEXT)).json()["id"]
        (stored,) = (await http.get("/cache/contexts", headers={"x-api-key": "ops-key"})).json()["contexts"]
        assert {each["state"] for each in await segments(http, id)} == {"hot"}
        assert (await shown(http, id, headers={"x-api-key": "ops-key"}))["contexts"]
        assert (await shown(http, stored["id"], headers={"x-api-key": "ops-key"}))["tokens"] == 43
        for key, hidden in (("bobs-key", id), ("bobs-key", stored["id"]), ("alices-key", stored["id"])):
            reply = await http.get(f"/cache/contexts/{hidden}", headers={"x-api-key": key})
            assert (reply.status_code, reply.json()["error"]["code"]) == (404, "not_found")
