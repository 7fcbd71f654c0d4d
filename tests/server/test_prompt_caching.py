"""Prompt caching in OpenAI's words: what the fields ask of the cache, in every dialect that has them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import httpx2
import openai
import pytest
from anthropic import AsyncAnthropic

from kvloom.config import ServerConfig
from kvloom.engine.cache_params import CacheParams, Mark
from kvloom.server.app import create_app
from kvloom.server.edge.keys import Key, Keyring

from .echo_engine import EchoEngine

CHAT = {"model": "mock", "messages": [{"role": "user", "content": "one two"}], "max_tokens": 3}
TEXT = {"model": "mock", "prompt": "one two", "max_tokens": 3}
RESPONSE = {"model": "mock", "input": "one two", "max_output_tokens": 3}
ENDPOINTS = [("/v1/chat/completions", CHAT), ("/v1/completions", TEXT), ("/v1/responses", RESPONSE)]
KEPT = {"5m": 300.0, "30m": 1800.0, "1h": 3600.0, "12h": 43_200.0}


@pytest.mark.parametrize(("path", "body"), ENDPOINTS)
@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ({"prompt_cache_key": "agent-1"}, CacheParams(session="agent-1")),
        ({"prompt_cache_key": None, "prompt_cache_options": None, "prompt_cache_retention": None}, CacheParams()),
        ({"prompt_cache_retention": "in_memory"}, CacheParams()),
        ({"prompt_cache_retention": "in-memory"}, CacheParams()),
        ({"prompt_cache_retention": "24h"}, CacheParams(ttl_s=86_400.0, pin_s=86_400.0)),
        *(
            ({"prompt_cache_options": {"ttl": ttl}}, CacheParams(ttl_s=seconds, pin_s=seconds))
            for ttl, seconds in KEPT.items()
        ),
        ({"prompt_cache_options": {"mode": "implicit", "prewarm": False}}, CacheParams()),
        ({"prompt_cache_options": {"comparison_response_id": "resp_1"}}, CacheParams()),
        ({"prompt_cache_options": {"mode": "explicit"}}, CacheParams(read=False, write=False)),
        (
            {"prompt_cache_options": {"ttl": "30m"}, "prompt_cache_retention": "24h"},
            CacheParams(ttl_s=86_400.0, pin_s=86_400.0),
        ),
        (
            {"prompt_cache_options": {"ttl": "1h"}, "kvloom": {"cache": {"pin_s": 5, "priority": 7}}},
            CacheParams(ttl_s=3600.0, pin_s=5, priority=7),
        ),
    ],
)
async def test_what_the_fields_ask_of_the_cache(
    http: httpx2.AsyncClient, engine: EchoEngine, path: str, body: Any, asked: Any, meant: CacheParams
) -> None:
    reply = await http.post(path, json=body | asked)
    assert reply.status_code == 200, reply.text
    assert "x-kvloom-ignored" not in reply.headers
    assert engine.caches == [meant]


@pytest.mark.parametrize(("path", "body"), ENDPOINTS)
@pytest.mark.parametrize(
    ("asked", "param", "words"),
    [
        ({"prompt_cache_key": 1}, "prompt_cache_key", "string"),
        ({"prompt_cache_key": ""}, "prompt_cache_key", "at least 1"),
        ({"prompt_cache_key": "k" * 513}, "prompt_cache_key", "at most 512"),
        ({"prompt_cache_retention": "1h"}, "prompt_cache_retention", "`in_memory` or `24h`"),
        ({"prompt_cache_options": {"ttl": "2h"}}, "prompt_cache_options.ttl", "`5m`, `30m`, `1h` or `12h`"),
        ({"prompt_cache_options": {"mode": "auto"}}, "prompt_cache_options.mode", "`implicit` or `explicit`"),
        ({"prompt_cache_options": {"prewarm": "yes"}}, "prompt_cache_options.prewarm", "boolean"),
        ({"prompt_cache_options": {"size": 1}}, "prompt_cache_options.size", "has `mode`, `ttl`, `prewarm`"),
    ],
)
async def test_what_is_not_supported_is_refused_with_what_is(
    http: httpx2.AsyncClient, engine: EchoEngine, path: str, body: Any, asked: Any, param: str, words: str
) -> None:
    reply = await http.post(path, json=body | asked)
    error = reply.json()["error"]
    assert reply.status_code == 400
    assert error["param"] == param
    assert words in error["message"]
    assert not engine.prompts


@pytest.mark.parametrize(("path", "body"), ENDPOINTS)
async def test_prewarming_computes_the_prompt_and_says_nothing(
    http: httpx2.AsyncClient, engine: EchoEngine, path: str, body: Any
) -> None:
    words = " ".join(f"w{n}" for n in range(24))
    body = body | ({"messages": [{"role": "user", "content": words}]} if "messages" in body else {})
    body = body | {name: words for name in ("prompt", "input") if name in body}
    warm = (await http.post(path, json=body | {"prompt_cache_options": {"prewarm": True}})).json()
    usage = warm["usage"]
    assert usage.get("completion_tokens", usage.get("output_tokens")) == 0
    again = (await http.post(path, json=body)).json()["usage"]
    details = again.get("prompt_tokens_details") or again["input_tokens_details"]
    assert details["cached_tokens"] >= 16
    assert engine.prompts[0] == engine.prompts[1]


def part(words: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": words, **more}


MARK = {"prompt_cache_breakpoint": {"mode": "explicit"}}


async def test_breakpoints_of_a_chat_keep_what_comes_before_them(http: httpx2.AsyncClient, engine: EchoEngine) -> None:
    words = [" ".join(f"{letter}{n}" for n in range(4)) for letter in "abc"]
    content = [part(words[0], **MARK), part(words[1], cache_control={"type": "ephemeral", "ttl": "1h"}), part(words[2])]
    whole = await http.post("/v1/chat/completions", json=CHAT | {"messages": [{"role": "user", "content": content}]})
    assert whole.status_code == 200, whole.text
    first, second = engine.caches[0].marks
    assert (first.ttl_s, second.ttl_s) == (1800.0, 3600.0)
    assert 0 < first.tokens < second.tokens < len(engine.prompts[0])
    assert second.tokens - first.tokens == 4
    assert (engine.caches[0].ttl_s, engine.caches[0].pin_s) == (None, None)


async def test_of_many_breakpoints_the_last_four_count(http: httpx2.AsyncClient, engine: EchoEngine) -> None:
    content = [part(f"a{n} b{n}", **MARK) for n in range(6)]
    asked: Any = CHAT | {"messages": [{"role": "user", "content": content}]}
    await http.post("/v1/chat/completions", json=asked)
    await http.post("/v1/chat/completions", json=asked | {"prompt_cache_options": {"ttl": "12h"}})
    explicit = {"mode": "explicit", "ttl": "12h"}
    await http.post("/v1/chat/completions", json=asked | {"prompt_cache_options": explicit})
    four, three, other = engine.caches
    assert [len(each.marks) for each in engine.caches] == [4, 3, 4]
    assert three.marks == tuple(Mark(mark.tokens, KEPT["12h"]) for mark in four.marks[1:])
    assert (other.read, other.write, other.pin_s) == (True, True, None)
    assert {mark.ttl_s for mark in other.marks} == {KEPT["12h"]}


async def test_a_message_may_be_a_breakpoint(http: httpx2.AsyncClient, engine: EchoEngine) -> None:
    turns = [
        {"role": "system", "content": "a b c", "cache_control": {"type": "ephemeral"}},
        {"role": "user", "content": "d e f"},
    ]
    plain = [{name: value for name, value in turn.items() if name != "cache_control"} for turn in turns]
    for messages in (turns, plain):
        reply = await http.post("/v1/chat/completions", json=CHAT | {"messages": messages})
        assert reply.status_code == 200, reply.text
    (mark,), none = (each.marks for each in engine.caches)
    assert (mark.ttl_s, none) == (300.0, ())
    assert 3 <= mark.tokens < len(engine.prompts[0])
    assert engine.prompts[0] == engine.prompts[1], "a breakpoint changes no prompt"


async def test_breakpoints_of_responses_are_kept_with_the_conversation(
    http: httpx2.AsyncClient, engine: EchoEngine
) -> None:
    content = [{"type": "input_text", "text": "a b c", **MARK}, {"type": "input_text", "text": "d"}]
    asked: Any = RESPONSE | {"input": [{"role": "user", "content": content}], "instructions": "z"}
    first = await http.post("/v1/responses", json=asked)
    assert first.status_code == 200, first.text
    more = RESPONSE | {"input": "e", "previous_response_id": first.json()["id"], "instructions": "z"}
    assert (await http.post("/v1/responses", json=more)).status_code == 200
    (mark,), (again,) = (each.marks for each in engine.caches)
    assert mark == again
    assert 3 <= mark.tokens < len(engine.prompts[0])


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"prompt_cache_breakpoint": True}, "`prompt_cache_breakpoint` is not supported"),
        ({"prompt_cache_breakpoint": {"mode": "implicit"}}, '"mode": "explicit"'),
        ({"prompt_cache_breakpoint": {"mode": "explicit", "ttl": "9m"}}, "`5m`, `30m`, `1h` or `12h`"),
        ({"prompt_cache_breakpoint": {"mode": "explicit", "ttl": 9}}, "`5m`, `30m`, `1h` or `12h`"),
        ({"cache_control": {"type": "ephemeral", "ttl": "12h"}}, "`5m` or `1h`"),
        ({"cache_control": "ephemeral"}, '"type": "ephemeral"'),
    ],
)
async def test_a_breakpoint_that_is_none_is_refused(
    http: httpx2.AsyncClient, engine: EchoEngine, said: Any, words: str
) -> None:
    chat = CHAT | {"messages": [{"role": "user", "content": [part("one", **said)]}]}
    response = RESPONSE | {"input": [{"role": "user", "content": [{"type": "input_text", "text": "one", **said}]}]}
    for path, body, field in (("/v1/chat/completions", chat, "messages"), ("/v1/responses", response, "input")):
        reply = await http.post(path, json=body)
        error = reply.json()["error"]
        assert (reply.status_code, error["param"]) == (400, field)
        assert words in error["message"]
    assert not engine.prompts


async def test_the_official_client_has_the_fields(client: openai.AsyncOpenAI, engine: EchoEngine) -> None:
    messages: Any = [{"role": "user", "content": [part("one two", **MARK)]}]
    options: Any = {"ttl": "30m"}
    await client.chat.completions.create(
        model="mock", messages=messages, max_tokens=2, prompt_cache_key="k", prompt_cache_options=options
    )
    await client.responses.create(
        model="mock", input="one two", prompt_cache_key="k", prompt_cache_retention="24h", max_output_tokens=2
    )
    assert [each.session for each in engine.caches] == ["k", "k"]
    assert [each.pin_s for each in engine.caches] == [1800.0, 86_400.0]


Serve = Callable[..., AbstractAsyncContextManager[httpx2.AsyncClient]]


@pytest.fixture
def serve(engine: EchoEngine) -> Serve:
    @asynccontextmanager
    async def serve(keys: Keyring | None = None) -> AsyncIterator[httpx2.AsyncClient]:
        transport = httpx2.ASGITransport(create_app(engine, ServerConfig(), keys))
        async with httpx2.AsyncClient(transport=transport, base_url="http://kvloom") as client:
            yield client

    return serve


async def test_sessions_are_named_by_header_and_user_id_too(http: httpx2.AsyncClient, engine: EchoEngine) -> None:
    header = {"x-session-id": "from-header"}
    await http.post("/v1/chat/completions", json=CHAT, headers=header)
    await http.post("/v1/chat/completions", json=CHAT | {"prompt_cache_key": "from-body"}, headers=header)
    claude = AsyncAnthropic(api_key="none", base_url="http://kvloom", http_client=http, max_retries=0)
    turns: Any = CHAT["messages"]
    await claude.messages.create(model="mock", messages=turns, max_tokens=2, metadata={"user_id": "session_9"})
    await claude.messages.create(model="mock", messages=turns, max_tokens=2)
    assert [each.session for each in engine.caches] == ["from-header", "from-body", "session_9", None]


async def test_a_session_belongs_to_its_key_and_widens_nothing(serve: Serve, engine: EchoEngine) -> None:
    words = " ".join(f"w{n}" for n in range(20))
    body = TEXT | {"prompt": words, "prompt_cache_key": "same"}
    keys = Keyring((Key("ann", "a-secret"), Key("bob", "b-secret")))
    async with serve(keys) as http:
        found = []
        for secret in ("a-secret", "b-secret", "a-secret"):
            reply = await http.post("/v1/completions", json=body, headers={"x-api-key": secret})
            found.append(reply.json()["usage"]["prompt_tokens_details"]["cached_tokens"])
    assert [each.session for each in engine.caches] == ["ann same", "bob same", "ann same"]
    assert found[:2] == [0, 0], "the key of a cache never finds what is another's"
    assert found[2] > 0
