"""The claim ``schema-fuzz`` in small: a tiny engine behind a real server, and what is found when it is false."""

from __future__ import annotations

import asyncio
import random
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from bench.claims.schema_fuzz import answer, at_rest, attack, audit, judged
from bench.claims.storm import resident_bytes
from bench.floods import Target
from bench.hostile import KINDS, beset
from bench.schema_cases import GENERATING, Tally, fuzz, with_model
from kvloom.config import ServerConfig
from kvloom.engine.async_engine import AsyncEngine
from kvloom.server.dialect.openapi import openapi_document
from kvloom.server.run import bind
from lenient_tokenizer import LenientTokenizer
from listening import listening
from tiny import make_engine


def only(document: dict[str, Any], *paths: str) -> dict[str, Any]:
    """Schemathesis prepares every path that it may draw, for a long time."""
    return document | {"paths": {path: document["paths"][path] for path in paths}}


@pytest.fixture
def engine() -> Iterator[AsyncEngine]:
    tokenizer = LenientTokenizer()
    made = AsyncEngine.over(
        make_engine(tokenizer=tokenizer, max_model_len=96, kv_bytes="1MiB"),
        tokenizer,
        "tiny",  # type: ignore[arg-type]
    )
    yield made
    made.close()


async def test_a_server_holds_out(engine: AsyncEngine) -> None:
    document = only(openapi_document(), "/v1/completions", "/detokenize", "/cache/reset", "/v1/models/{name}")
    async with listening(engine, ServerConfig(port=0)) as server:
        target = Target("127.0.0.1", server.port, "tiny", random.Random(3))
        outcome = await asyncio.to_thread(attack, target, document, 40, 100, resident_bytes)
    missed = {check.name for check in outcome.checks if not check.holds}
    assert missed <= {"resident memory"}, outcome.line()  # of the whole suite's process
    assert outcome.details["cases"] == 40
    assert set(outcome.details["clients"]) == {kind.__name__ for kind in KINDS}


async def test_every_kind_of_client_leaves_nothing(engine: AsyncEngine) -> None:
    async with listening(engine, ServerConfig(port=0)) as server:
        url = server.url
        before = await asyncio.to_thread(answer, url, "tiny")
        for kind in KINDS:
            ending = await kind(Target("127.0.0.1", server.port, "tiny", random.Random(4)))
            assert ending in ("left", "ended") or ending[0] == "4", (kind.__name__, ending)
        rest = await asyncio.to_thread(at_rest, url, 30.0)
        assert not any(rest.values())
        assert await asyncio.to_thread(audit, url) == "passes"
        assert await asyncio.to_thread(answer, url, "tiny") == before


async def test_a_server_that_breaks_is_found() -> None:
    async def fails(request: Request) -> JSONResponse:
        return JSONResponse({"error": "no"}, 500)

    app: Any = Starlette(routes=[Route("/v1/models", fails)])
    tally = await asyncio.to_thread(_fuzz_app, app)
    assert tally.fault_count == tally.statuses[500] == tally.statuses.total() > 0
    assert "status 500: GET /v1/models" in tally.faults[0]


def _fuzz_app(app: Any) -> Tally:
    """Without an engine, so the server of another test does not do."""
    bound = bind(ServerConfig(port=0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off"))

    async def go() -> Tally:
        serving = asyncio.create_task(server.serve(sockets=[bound]))
        while not server.started:
            await asyncio.sleep(0.005)
        try:
            url = f"http://127.0.0.1:{bound.getsockname()[1]}"
            return await asyncio.to_thread(fuzz, url, only(openapi_document(), "/v1/models"), 3, 1)
        finally:
            server.should_exit = True
            await serving

    return asyncio.run(go())


TALLY = Tally(Counter({200: 5, 400: 5}), Counter(), [], 0, 0.1)
CLIENTS = {"leaves": Counter({"left": 9}), "rubbish": Counter({"413": 1})}
REST = {"running": 0, "waiting": 0, "held_pages": 0}
GOOD: tuple[Any, ...] = (TALLY, CLIENTS, REST, "passes", ("a", "a"), (100, 104))


def test_all_is_well() -> None:
    assert judged(*GOOD).holds


@pytest.mark.parametrize(
    ("place", "bad"),
    [
        (0, replace(TALLY, fault_count=1, faults=["status 500"])),
        (0, replace(TALLY, statuses=Counter({400: 9}))),
        (0, replace(TALLY, statuses=Counter({200: 9}))),
        (1, {"rubbish": Counter({"500": 1})}),
        (1, {"rubbish": Counter({"no answer": 1})}),
        (2, REST | {"held_pages": 1}),
        (3, "HTTP Error 500"),
        (4, ("a", "b")),
        (5, (100, 106)),
    ],
)
def test_one_thing_that_is_wrong_is_enough(place: int, bad: Any) -> None:
    assert not judged(*(bad if n == place else good for n, good in enumerate(GOOD))).holds


def test_the_models_name_is_filled_in_where_it_is_asked_for() -> None:
    document = openapi_document()
    found = with_model(document, "tiny")
    asked = found["components"]["schemas"]["ResponsesRequest"]
    assert asked["properties"]["model"] == {"const": "tiny"}
    assert "model" in asked["required"]
    assert found["components"]["schemas"]["MessageReply"] == document["components"]["schemas"]["MessageReply"]
    assert document == openapi_document()


async def test_clients_are_as_many_as_were_asked_for() -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()[:2]
        tallies = await beset(Target(host, port, "tiny", random.Random(1)), 30, 4)
    assert sum(endings.total() for endings in tallies.values()) == 30


def test_all_that_generates_is_asked_more_often() -> None:
    asked = {path for path in openapi_document()["paths"] if re.search(GENERATING, path)}
    assert asked == {"/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/v1/embeddings"}
