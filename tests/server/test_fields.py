"""What is done with every field that clients of other servers send."""

from __future__ import annotations

import json
from typing import Any, get_type_hints

import httpx2
import pytest
from openai.types.chat.completion_create_params import CompletionCreateParamsStreaming as OpenAIChat
from openai.types.completion_create_params import CompletionCreateParamsStreaming as OpenAICompletion

from kvloom.server.dialect.field_table import HINTS, REFUSED, SERVED
from kvloom.server.dialect.schemas import ChatRequest, CompletionRequest

from .echo_engine import EchoEngine
from .exchange import events

CHAT = {"model": "mock", "messages": [{"role": "user", "content": "one two"}], "max_tokens": 3}
TEXT = {"model": "mock", "prompt": "one two", "max_tokens": 3}
ENDPOINTS = (("/v1/chat/completions", CHAT, ChatRequest), ("/v1/completions", TEXT, CompletionRequest))

NO_EFFECT_BEFORE = {
    "reasoning_effort": "low",
    "spaces_between_special_tokens": False,
    "length_penalty": 0.5,
    "repeat_penalty": 1.1,
    "typical_p": 0.9,
    "typ_p": 0.9,
    "minP": 0.1,
    "min-p": 0.1,
    "topK": 5,
    "maxTokens": 5,
    "grammar": 'root ::= "a"',
    "json_schema": {},
    "regex": "a",
    "ebnf": "a",
    "mirostat": 2,
    "n_predict": 5,
    "max_new_tokens": 5,
    "options": {"num_predict": 5},
    "dry_multiplier": 0.8,
    "xtc_probability": 0.5,
    "tfs_z": 0.9,
    "logprob_token_ids": [1],
    "allowed_token_ids": [1],
    "truncate_prompt_tokens": 5,
    "stop_regex": "a+",
    "priority": 1,
    "function_call": "f",
}


@pytest.mark.parametrize(("path", "body", "_"), ENDPOINTS)
@pytest.mark.parametrize(("name", "value"), NO_EFFECT_BEFORE.items())
async def test_what_would_change_the_answer_is_refused_by_name(
    http: httpx2.AsyncClient, engine: EchoEngine, path: str, body: Any, _: Any, name: str, value: Any
) -> None:
    reply = await http.post(path, json=body | {name: value})
    error = reply.json()["error"]
    assert reply.status_code == 400
    assert error["param"] == name
    assert f"`{name}` is not supported by this server" in error["message"]
    assert engine.prompts == []


@pytest.mark.parametrize(("path", "body", "model"), ENDPOINTS)
async def test_every_refused_field_passes_as_null_and_with_neutral_values(
    http: httpx2.AsyncClient, path: str, body: Any, model: Any
) -> None:
    for name, field in REFUSED.items():
        if name in model.model_fields:
            continue
        for value in (None, *field.neutral):
            reply = await http.post(path, json=body | {name: value})
            assert reply.status_code == 200, (name, value, reply.text)
            assert "x-kvloom-ignored" not in reply.headers
        reply = await http.post(path, json=body | {name: {"no": "value"}})
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, name)


@pytest.mark.parametrize(("path", "body", "_"), ENDPOINTS)
async def test_hints_pass_whatever_they_say(http: httpx2.AsyncClient, path: str, body: Any, _: Any) -> None:
    for value in (None, True, "x", {"a": [1]}):
        reply = await http.post(path, json=body | dict.fromkeys(HINTS, value))
        assert reply.status_code == 200, reply.text
        assert "x-kvloom-ignored" not in reply.headers


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("path", "body", "_"), ENDPOINTS)
async def test_unknown_fields_are_named_in_a_header(
    http: httpx2.AsyncClient, path: str, body: Any, _: Any, stream: bool
) -> None:
    asked = body | {"stream": stream, "foo": 1, "bar.baz": {}, "nothing": None}
    reply = await http.post(path, json=asked)
    assert (reply.status_code, reply.headers["x-kvloom-ignored"]) == (200, "foo, bar.baz")
    reply = await http.post(path, json=body | {"stream": stream})
    assert "x-kvloom-ignored" not in reply.headers


async def test_fields_inside_are_named_too(http: httpx2.AsyncClient) -> None:
    turn = {"role": "user", "content": "hi", "mood": "good", "annotations": [], "cache_control": {"type": "ephemeral"}}
    asked = CHAT | {
        "messages": [turn, turn],
        "stream": True,
        "stream_options": {"speed": 9, "include_obfuscation": True},
    }
    reply = await http.post("/v1/chat/completions", json=asked)
    assert reply.headers["x-kvloom-ignored"] == "stream_options.speed, messages.mood"


async def test_the_header_is_bounded_and_clean(http: httpx2.AsyncClient) -> None:
    names = ["a\r\nset-cookie: x=1", "ü", "x" * 5000, "", *(f"name{n}" for n in range(500))]
    reply = await http.post("/v1/completions", json=TEXT | dict.fromkeys(names, 1))
    told = reply.headers["x-kvloom-ignored"].split(", ")
    assert told[:2] == ["?", "name0"]
    assert told[-1] == "and more"
    assert len(told) == 17
    assert "set-cookie" not in reply.headers


async def test_a_body_of_nothing_but_unknown_fields_is_refused(http: httpx2.AsyncClient) -> None:
    many = {f"name{n}": 1 for n in range(1001)}
    turn = {"role": "user", "content": "hi"}
    for path, body in (
        ("/v1/completions", TEXT | many),
        ("/v1/completions", TEXT | {"stream": True, "stream_options": many}),
        ("/v1/chat/completions", CHAT | {"messages": [turn | many]}),
        ("/tokenize", {"prompt": "a"} | many),
    ):
        reply = await http.post(path, json=body)
        assert reply.status_code == 400
        assert "1,001 unsupported fields" in reply.json()["error"]["message"]


@pytest.mark.parametrize("name", ["function_call", "audio", "prefix"])
async def test_what_a_message_must_not_lose(http: httpx2.AsyncClient, name: str) -> None:
    turn = {"role": "assistant", "content": "hi"}
    reply = await http.post("/v1/chat/completions", json=CHAT | {"messages": [turn, turn | {name: {"a": 1}}]})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, f"messages.1.{name}")
    assert (await http.post("/v1/chat/completions", json=CHAT | {"messages": [turn | {name: None}]})).status_code == 200


def test_the_table_says_every_field_of_the_models_and_of_openai() -> None:
    own = ChatRequest.model_fields.keys() | CompletionRequest.model_fields.keys()
    assert own <= SERVED.keys()
    assert SERVED.keys() <= own
    for model, openai in ((ChatRequest, OpenAIChat), (CompletionRequest, OpenAICompletion)):
        theirs = get_type_hints(openai).keys()
        assert theirs <= SERVED.keys() | HINTS.keys() | REFUSED.keys()
        extends = {name for name in model.model_fields if model.__name__ in SERVED[name].extends}
        assert extends == model.model_fields.keys() - theirs
    assert HINTS.keys().isdisjoint(REFUSED.keys() | SERVED.keys())


@pytest.mark.parametrize("stream", [False, True])
async def test_chat_echoes_the_assistants_last_message(http: httpx2.AsyncClient, stream: bool) -> None:
    for role, begins in (("assistant", "So far"), ("user", "")):
        turns = [{"role": "user", "content": "a"}, {"role": role, "content": "So far"}]
        reply = await http.post(
            "/v1/chat/completions", json=CHAT | {"messages": turns, "echo": True, "n": 2, "stream": stream}
        )
        assert texts(reply, stream, "content") == {0: f"{begins} <user> a <{role}>", 1: f"{begins} a <{role}> So"}


@pytest.mark.parametrize("stream", [False, True])
async def test_token_ids_beside_the_text(http: httpx2.AsyncClient, engine: EchoEngine, stream: bool) -> None:
    asked = {"n": 2, "return_token_ids": True, "stream": stream}
    for path, body, _ in ENDPOINTS:
        reply = await http.post(path, json=body | asked)
        prompt = engine.prompts[-1]
        got: dict[int, list[int]] = {0: [], 1: []}
        told = []
        for document in documents(reply, stream):
            told += [document["prompt_token_ids"]] if "prompt_token_ids" in document else []
            for choice in document["choices"]:
                told += [choice["prompt_token_ids"]] if "prompt_token_ids" in choice else []
                got[choice["index"]] += choice.get("token_ids", [])
        assert got == {0: prompt[:3], 1: (prompt * 2)[1:4]}
        assert told == ([prompt] if path.endswith("chat/completions") else [prompt, prompt])


async def test_without_being_asked_for_there_are_no_token_ids(http: httpx2.AsyncClient) -> None:
    for path, body, _ in ENDPOINTS:
        for stream in (False, True):
            assert "token_ids" not in (await http.post(path, json=body | {"stream": stream})).text


@pytest.mark.parametrize("stream", [False, True])
async def test_ids_go_out_with_the_text_that_was_held_back(
    http: httpx2.AsyncClient, engine: EchoEngine, stream: bool
) -> None:
    """A step without text has no chunk: its id waits for the next."""
    engine.tokenizer.token_text = lambda token: "" if token % 2 else "ab"  # type: ignore[method-assign]
    asked = TEXT | {"prompt": "a b c d e", "max_tokens": 5, "return_token_ids": True, "stream": stream}
    got = [
        choice.get("token_ids", [])
        for document in documents(await http.post("/v1/completions", json=asked), stream)
        for choice in document["choices"]
    ]
    assert [token for part in got for token in part] == engine.prompts[-1][:5]
    assert all(got)


@pytest.mark.parametrize("stream", [False, True])
async def test_tokens_named_by_id(http: httpx2.AsyncClient, engine: EchoEngine, stream: bool) -> None:
    scores: list[Any] = []
    asked = {"return_tokens_as_token_ids": True, "stream": stream}
    reply = await http.post("/v1/completions", json=TEXT | asked | {"logprobs": 2, "echo": True})
    prompt = engine.prompts[-1]
    for document in documents(reply, stream):
        scores += [choice["logprobs"] for choice in document["choices"] if choice["logprobs"]]
    names = [name for part in scores for name in part["tokens"]]
    assert names == [f"token_id:{token}" for token in prompt + prompt[:3]]
    for part in scores:
        for name, top in zip(part["tokens"], part["top_logprobs"], strict=True):
            assert top is None or (name in top and all(other.startswith("token_id:") for other in top))
    assert [offset for part in scores for offset in part["text_offset"]][:3] == [
        0,
        0,
        3,
    ]  # the first token is not in the text

    reply = await http.post("/v1/chat/completions", json=CHAT | asked | {"logprobs": True, "top_logprobs": 2})
    prompt, entries = engine.prompts[-1], []
    for document in documents(reply, stream):
        for choice in document["choices"]:
            entries += (choice["logprobs"] or {}).get("content", [])
    assert [entry["token"] for entry in entries] == [f"token_id:{token}" for token in prompt[:3]]
    tops = [[other["token"] for other in entry["top_logprobs"]] for entry in entries]
    output = await engine.output(prompt, max_tokens=3, logprobs=2)
    best = [sorted((s.rank, token) for token, s in entry.items() if s.rank <= 2) for entry in output.logprobs or ()]
    assert tops == [[f"token_id:{token}" for _, token in ranked] for ranked in best]


@pytest.mark.parametrize("include_usage", [False, True])
@pytest.mark.parametrize(("path", "body", "_"), ENDPOINTS)
async def test_usage_in_every_event(
    http: httpx2.AsyncClient, path: str, body: Any, _: Any, include_usage: bool
) -> None:
    options = {"continuous_usage_stats": True, "include_usage": include_usage}
    reply = await http.post(path, json=body | {"stream": True, "stream_options": options})
    chunks = documents(reply, True)
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks if chunk["choices"]]
    assert counts[-2:] == [2, 3]
    assert sum(not chunk["choices"] for chunk in chunks) == include_usage


def documents(reply: httpx2.Response, stream: bool) -> list[Any]:
    assert reply.status_code == 200, reply.text
    if not stream:
        return [json.loads(reply.content)]
    *chunks, done = events([reply.content])
    assert done == "[DONE]"
    return chunks


def texts(reply: httpx2.Response, stream: bool, name: str) -> dict[int, str]:
    found: dict[int, str] = {}
    for document in documents(reply, stream):
        for choice in document["choices"]:
            said = choice["delta" if stream else "message"].get(name) or ""
            found[choice["index"]] = found.get(choice["index"], "") + said
    return found
