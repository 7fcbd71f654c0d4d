"""Which paths there are, what they say they take, and what is said where there is nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI

from kvloom.config import ServerConfig
from kvloom.server.app import create_app
from kvloom.server.dialect.field_table import SERVED
from kvloom.server.dialect.openapi import openapi_document
from kvloom.server.dialect.schemas import ChatRequest, CompletionRequest
from kvloom.server.missing import PATHS

from .echo_engine import EchoEngine
from .word_tokenizer import BOS

ELSEWHERE = (
    "/v1/audio/speech",
    "/v1/images/generations",
    "/v1/moderations",
    "/v1/files",
    "/v1/batches",
    "/v1/fine_tuning/jobs",
    "/v1/messages/batches/x",
    "/v1/rerank",
    "/api/chat",
    "/api/generate",
    "/completion",
    "/generate",
    "/props",
)


@pytest.mark.parametrize("path", ELSEWHERE)
async def test_other_servers_paths_are_not_supported(http: httpx2.AsyncClient, path: str) -> None:
    reply = await http.post(path, json={})
    error = reply.json()["error"]
    assert (reply.status_code, error["code"]) == (404, "not_found")
    assert error["message"] == f"`{path}` is not supported by this server (hint: `/openapi.json` lists all paths)"


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/chat/completions", "/v1/chat/completions"),
        ("/completions", "/v1/completions"),
        ("/models", "/v1/models"),
        ("/v1/v1/chat/completions", "/v1/chat/completions"),
        ("/v1/chat/completions/", "/v1/chat/completions"),
        ("/v1//chat/completions", "/v1/chat/completions"),
        ("/openai/v1/completions", "/v1/completions"),
        ("/api/v1/models", "/v1/models"),
        ("/v1/Completions", "/v1/completions"),
        ("/v1/health", "/health"),
        ("/v1/tokenize", "/tokenize"),
        ("/health/", "/health"),
    ],
)
async def test_a_path_that_is_nearly_right_hints_at_the_right_one(
    http: httpx2.AsyncClient, path: str, meant: str
) -> None:
    reply = await http.post(path, json={})
    assert reply.status_code == 404
    says = f"`{path}` is not supported by this server (hint: did you mean `{meant}`?)"
    assert reply.json()["error"]["message"] == says


async def test_a_wrong_method_is_told_the_right_ones(http: httpx2.AsyncClient) -> None:
    for method, path, allowed in (("PUT", "/v1/chat/completions", "POST"), ("POST", "/v1/models", "GET, HEAD")):
        reply = await http.request(method, path)
        assert (reply.status_code, reply.headers["allow"]) == (405, allowed)
        assert reply.json()["error"]["message"] == f"`{method}` is not allowed for `{path}`, only {allowed}"


async def test_long_paths_and_names_are_cut_short(http: httpx2.AsyncClient) -> None:
    body = {"model": "m" * 10**6, "prompt": "x"}
    for reply in (await http.get("/v1/" + "x" * 50_000), await http.post("/v1/completions", json=body)):
        assert reply.status_code == 404
        assert len(reply.content) < 3000


async def test_models_with_a_slash_is_models(http: httpx2.AsyncClient) -> None:
    assert (await http.get("/v1/models/")).json() == (await http.get("/v1/models")).json()
    assert (await http.get("/v1/models/mock")).json()["id"] == "mock"


def test_every_path_is_documented_and_there(app: FastAPI) -> None:
    documented = openapi_document()["paths"]
    assert set(documented) == set(PATHS)


async def test_every_documented_operation_is_there(http: httpx2.AsyncClient) -> None:
    for path, operations in openapi_document()["paths"].items():
        for method in operations.keys() - {"parameters"}:
            reply = await http.request(method, path.replace("{name}", "mock"))
            is_there = reply.status_code in (200, 400) or ("{id}" in path and "not found" in reply.text)
            assert is_there, (method, path)


async def test_the_document_is_what_is_served(http: httpx2.AsyncClient) -> None:
    assert (await http.get("/openapi.json")).json() == json.loads(json.dumps(openapi_document()))


def test_every_reference_of_the_document_resolves() -> None:
    document = openapi_document()
    schemas = document["components"]["schemas"]
    found = set(references(document))
    assert {name.removeprefix("#/components/schemas/") for name in found} <= schemas.keys()
    assert len(found) > 8
    for name, schema in schemas.items():
        assert set(schema.get("required", [])) <= schema["properties"].keys(), name


def test_the_document_tells_and_marks_every_field() -> None:
    schemas = openapi_document()["components"]["schemas"]
    for model in (ChatRequest, CompletionRequest):
        properties = schemas[model.__name__]["properties"]
        assert properties.keys() == model.model_fields.keys()
        for name, schema in properties.items():
            assert schema["description"] == SERVED[name].says
            assert ("x-kvloom-extension" in schema) == (model.__name__ in SERVED[name].extends)


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if "$ref" in node:
            yield node["$ref"]
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


async def test_tokenize_and_back(http: httpx2.AsyncClient, engine: EchoEngine) -> None:
    one, two = engine.tokenizer.encode("one two", add_special_tokens=False)
    reply = await http.post("/tokenize", json={"model": "mock", "prompt": "one two", "return_token_strs": True})
    assert reply.json() == {
        "count": 3,
        "max_model_len": 64,
        "tokens": [BOS, one, two],
        "token_strs": [" <s>", " one", " two"],
    }
    reply = await http.post("/tokenize", json={"prompt": "one two", "add_special_tokens": False})
    assert (reply.json()["tokens"], reply.json()["token_strs"]) == ([one, two], None)
    reply = await http.post("/detokenize", json={"tokens": [BOS, one, two]})
    assert reply.json() == {"prompt": " <s> one two"}


async def test_tokenize_says_what_a_chat_would_send(http: httpx2.AsyncClient, engine: EchoEngine) -> None:
    turns = [{"role": "user", "content": "hi"}]
    await http.post("/v1/chat/completions", json={"model": "mock", "messages": turns, "max_tokens": 1})
    asked = {"messages": turns}
    assert (await http.post("/tokenize", json=asked)).json()["tokens"] == engine.prompts[-1]
    shorter = await http.post("/tokenize", json=asked | {"add_generation_prompt": False})
    assert shorter.json()["tokens"] == engine.prompts[-1][:-1]


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        ("/tokenize", {}, 400, None),
        ("/tokenize", {"prompt": "a", "messages": [{"role": "user", "content": "a"}]}, 400, None),
        ("/tokenize", {"prompt": ["a"]}, 400, "prompt"),
        ("/tokenize", {"prompt": "a", "model": "other"}, 404, "model"),
        ("/tokenize", {"messages": []}, 400, "messages"),
        ("/tokenize", {"messages": [{"role": "user", "content": "a", "audio": {}}]}, 400, "messages.0.audio"),
        ("/tokenize", {"messages": [{"role": "user", "content": "a"}], "chat_template": "x"}, 400, "chat_template"),
        ("/detokenize", {}, 400, "tokens"),
        ("/detokenize", {"tokens": [-1]}, 400, "tokens.0"),
        ("/detokenize", {"tokens": [0] * 65}, 400, "tokens"),
        ("/detokenize", {"tokens": "a"}, 400, "tokens"),
    ],
)
async def test_bad_bodies_to_tokenize(
    http: httpx2.AsyncClient, path: str, body: dict[str, Any], status: int, param: str | None
) -> None:
    reply = await http.post(path, json=body)
    assert (reply.status_code, reply.json()["error"]["param"]) == (status, param)


async def test_tokenize_wants_the_key(engine: EchoEngine) -> None:
    app = create_app(engine, ServerConfig(api_key="secret-key"))
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://kvloom") as http:
        for path in ("/tokenize", "/detokenize"):
            assert (await http.post(path, json={"prompt": "a", "tokens": [0]})).status_code == 401
        assert (await http.get("/openapi.json")).status_code == 200


async def test_a_refusal_that_is_sent_back_is_what_the_assistant_said(
    http: httpx2.AsyncClient, engine: EchoEngine
) -> None:
    turns = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": None, "refusal": "no way", "audio": None, "tool_calls": None},
        {"role": "user", "content": "b"},
    ]
    body = {"model": "mock", "messages": turns, "max_tokens": 1, "response_format": {"type": "text", "strict": False}}
    reply = await http.post("/v1/chat/completions", json=body)
    assert reply.status_code == 200, reply.text
    assert "<assistant> no way <user>" in engine.tokenizer.decode(engine.prompts[-1])


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "f"}}, "any"])
async def test_a_tool_cannot_be_required_where_there_is_none(http: httpx2.AsyncClient, choice: Any) -> None:
    body = {"model": "mock", "messages": [{"role": "user", "content": "a"}], "max_tokens": 1, "tool_choice": choice}
    reply = await http.post("/v1/chat/completions", json=body)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "tool_choice")
    for harmless in ("none", "auto", None):
        assert (await http.post("/v1/chat/completions", json=body | {"tool_choice": harmless})).status_code == 200


def test_every_name_in_the_document_is_there_and_means_what_its_body_takes() -> None:
    document = openapi_document()
    schemas = document["components"]["schemas"]
    named = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document)))
    assert named <= schemas.keys()
    turn = ChatRequest.model_json_schema()["$defs"]["Message"]
    assert schemas["Message"]["properties"] == turn["properties"]
    assert schemas["MessageReply"]["properties"].keys() >= {"content", "usage"}
