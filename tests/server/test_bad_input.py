"""Whatever callers send: a clear error in OpenAI's shape, none of our insides, and the server lives on."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import openai
import pytest
from fastapi import FastAPI

from kvloom.config import ServerConfig
from kvloom.server.app import create_app

from .echo_engine import EchoEngine
from .faulty_engine import FaultyEngine

CHAT = {"model": "mock", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
TEXT = {"model": "mock", "prompt": "hi", "max_tokens": 1}
IMAGE = {"type": "image_url", "image_url": {"url": "x"}}
NO_SCHEMA = {"properties": {"a": {"type": 3}}}
TOOL = {"type": "function", "function": {"name": "f"}}


async def assert_healthy(http: httpx2.AsyncClient, engine: EchoEngine) -> None:
    assert (await http.get("/health")).status_code == 200
    reply = await http.post("/v1/completions", json=TEXT)
    assert reply.status_code == 200
    assert reply.json()["choices"][0]["finish_reason"] == "length"
    assert engine.live == set()


def assert_error(reply: httpx2.Response, status: int, says: str, param: str | None = None) -> dict[str, Any]:
    assert reply.status_code == status, reply.text
    error = reply.json()["error"]
    assert set(reply.json()) == {"error"}
    assert set(error) == {"message", "type", "param", "code"}
    assert says in error["message"]
    assert error["param"] == param
    assert "Traceback" not in reply.text
    return error


CHAT_CASES: list[tuple[dict[str, Any], str, str]] = [
    ({"temperature": "hot"}, "valid number", "temperature"),
    ({"temperature": 101}, "from 0 to 100", "temperature"),
    ({"temperature": -1}, "from 0 to 100", "temperature"),
    ({"top_p": 0}, "above 0", "top_p"),
    ({"max_tokens": 0}, "at least 1, got 0", "max_tokens"),
    ({"max_tokens": -5}, "at least 1, got -5", "max_tokens"),
    ({"max_tokens": "16"}, "valid integer", "max_tokens"),
    ({"max_tokens": 1.5}, "valid integer", "max_tokens"),
    ({"max_completion_tokens": 0}, "at least 1, got 0", "max_tokens"),
    ({"n": 0}, "from 1 to 128", "n"),
    ({"n": 129}, "from 1 to 128, got 129", "n"),
    ({"n": True}, "valid integer", "n"),
    ({"stop": ["x"] * 65}, "65 strings, at most 64", "stop"),
    ({"stop": [""]}, "non-empty", "stop"),
    ({"stop": [1]}, "a string or a list of strings", "stop"),
    ({"stop": {"a": 1}}, "a string or a list of strings", "stop"),
    ({"seed": 2**70}, "seed", "seed"),
    ({"logit_bias": {"x": 1}}, "token ids", "logit_bias"),
    ({"logit_bias": {"1": 101}}, "from -100 to 100", "logit_bias"),
    ({"logit_bias": {"-1": 1}}, "at least 0", "logit_bias"),
    ({"presence_penalty": 3}, "from -2 to 2", "presence_penalty"),
    ({"repetition_penalty": 0}, "from 0.01 to 100", "repetition_penalty"),
    ({"top_logprobs": 2}, "needs `logprobs`", "top_logprobs"),
    ({"logprobs": True, "top_logprobs": 101}, "less than or equal to 100", "top_logprobs"),
    ({"logprobs": 3}, "valid boolean", "logprobs"),
    ({"stream": "yes"}, "valid boolean", "stream"),
    ({"stream_options": {"include_usage": True}}, "needs `stream`", "stream_options"),
    ({"stream": True, "prompt_logprobs": 1}, "cannot be streamed", "prompt_logprobs"),
    ({"cache_salt": ""}, "at least 1 character", "cache_salt"),
    ({"messages": []}, "at least 1 item", "messages"),
    ({"messages": "hi"}, "valid array", "messages"),
    ({"messages": None}, "valid array", "messages"),
    ({"messages": [{"role": "robot", "content": "x"}]}, "'system', 'developer', 'user'", "messages.0.role"),
    ({"messages": [{"content": "x"}]}, "required", "messages.0.role"),
    ({"messages": [{"role": "user"}]}, "content is missing", "messages.0"),
    (
        {"messages": [{"role": "user", "content": 7}]},
        "a string or a list of parts",
        "messages.0.content",
    ),
    (
        {"messages": [{"role": "user", "content": [IMAGE]}]},
        "`image_url` is not supported",
        "messages.0.content",
    ),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "string `text`", "messages.0.content"),
    ({"tools": [TOOL, TOOL]}, "two tools are called", "tools.1"),
    ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}}, "names `g`", "tool_choice"),
    ({"tool_choice": "required"}, "there are no tools", "tool_choice"),
    ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "`a b` is not a name", "tools.0"),
    ({"tools": [TOOL] * 129}, "129 tools, at most 128", "tools"),
    (
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "array"}}}]},
        "are no object's schema",
        "tools.0.function.parameters",
    ),
    (
        {
            "tools": [
                {"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": {"type": 3}}}}}
            ],
            "tool_choice": "required",
        },
        "cannot be held to",
        "tools",
    ),
    (
        {"tools": [TOOL], "tool_choice": "required", "response_format": {"type": "json_object"}},
        "another form",
        "tool_choice",
    ),
    ({"functions": [{}]}, "`functions` is not supported", "functions"),
    ({"response_format": {"type": "json_schema"}}, "belongs to type `json_schema`", "response_format"),
    ({"response_format": {"type": "xml"}}, "'text', 'json_object' or 'json_schema'", "response_format.type"),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "foo"}}}},
        "Invalid type: foo",
        "response_format",
    ),
    (
        {"response_format": {"type": "json_object"}, "guided_regex": "a"},
        "`response_format` and `guided_regex` both say",
        "guided_regex",
    ),
    ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "`regex` and `choice`", "structured_outputs"),
    ({"structured_outputs": {}}, "none of them", "structured_outputs"),
    ({"structured_outputs": {"structural_tag": "x"}}, "is not supported", "structured_outputs.structural_tag"),
    ({"structured_outputs": {"regex": "(a"}}, "unclosed group", "structured_outputs"),
    ({"guided_grammar": "start: foo"}, "unknown name", "guided_grammar"),
    ({"guided_choice": []}, "1 to 1,000 texts", "guided_choice"),
    ({"min_tokens": 5, "max_tokens": 4}, "more than max_tokens", "min_tokens"),
    ({"continue_final_message": True, "add_generation_prompt": True}, "exclude each other", None),
    ({"modalities": ["text", "audio"]}, "`modalities` is not supported", "modalities"),
    ({"audio": {"voice": "x"}}, "`audio` is not supported", "audio"),
    ({"guided_decoding_backend": "xgrammar"}, "`guided_decoding_backend` is not supported", "guided_decoding_backend"),
    ({"model": 5}, "valid string", "model"),
]

TEXT_CASES: list[tuple[dict[str, Any], str, str]] = [
    ({"prompt": ""}, "the prompt is empty", "prompt"),
    ({"prompt": []}, "the prompt is empty", "prompt"),
    ({"prompt": [[]]}, "the prompt is empty", "prompt"),
    ({"prompt": ["a", ""]}, "the prompt is empty", "prompt"),
    ({"prompt": None}, "must be a string, a list", "prompt"),
    ({"prompt": [1, "a"]}, "must be a string, a list", "prompt"),
    ({"prompt": [-1]}, "must be a string, a list", "prompt"),
    ({"prompt": [2**40]}, "must be a string, a list", "prompt"),
    ({"prompt": {"a": 1}}, "must be a string, a list", "prompt"),
    ({"prompt": [777]}, "token id 777 is outside the vocabulary", "prompt"),
    ({"prompt": ["a"] * 257}, "257 prompts with n = 1 make 257 sequences, at most 256 are allowed", "prompt"),
    ({"prompt": "word " * 100}, "is 64 tokens. However, the prompt is too long: it has 101 tokens", "prompt"),
    ({"suffix": "x"}, "`suffix` is not supported", "suffix"),
    ({"best_of": 2}, "`best_of` other than `n`", "best_of"),
    ({"logprobs": 101}, "from 0 to 100", "logprobs"),
    ({"logprobs": -1}, "from 0 to 100", "logprobs"),
    ({"min_tokens": -3}, "at least 0", "min_tokens"),
    ({"tools": [TOOL]}, "`tools` is not supported", "tools"),
    ({"guided_json": {"type": "foo"}}, "Invalid type: foo", "guided_json"),
    ({"use_beam_search": True}, "`use_beam_search` is not supported", "use_beam_search"),
]


@pytest.mark.parametrize(("change", "says", "param"), CHAT_CASES)
@pytest.mark.parametrize("stream", [False, True])
async def test_bad_chat(
    http: httpx2.AsyncClient, engine: EchoEngine, change: dict[str, Any], says: str, param: str, stream: bool
) -> None:
    asked = CHAT | ({"stream": True} if stream and "stream_options" not in change else {}) | change
    error = assert_error(await http.post("/v1/chat/completions", json=asked), 400, says, param)
    assert error["type"] == "invalid_request_error"
    await assert_healthy(http, engine)


@pytest.mark.parametrize(("change", "says", "param"), TEXT_CASES)
@pytest.mark.parametrize("stream", [False, True])
async def test_bad_completion(
    http: httpx2.AsyncClient, engine: EchoEngine, change: dict[str, Any], says: str, param: str, stream: bool
) -> None:
    asked = TEXT | {"stream": stream} | change
    assert_error(await http.post("/v1/completions", json=asked), 400, says, param)
    await assert_healthy(http, engine)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "the body is empty"),
        (b"{", "not valid JSON"),
        (b"not json", "not valid JSON"),
        (b'{"model": "mock",}', "not valid JSON"),
        (b"[1, 2]", "should be an object"),
        (b"null", "should be an object"),
        (b'"text"', "should be an object"),
        (b'{"model": "\xff\xfe"}', "not valid UTF-8 at byte 11"),
        (b'{"model": "mock", "prompt": "\\ud800"}', "not valid JSON"),
        (b"[" * 40_000, "not valid JSON"),
        (b'{"a":' * 10_000, "not valid JSON"),
        (b'{"model": "mock", "prompt": "x", "temperature": NaN}', "finite number"),
        (b'{"model": "mock", "prompt": "x", "temperature": Infinity}', "finite number"),
        (b'{"model": "mock", "prompt": "x", "temperature": 1e999}', "finite number"),
        (b'{"model": "mock", "prompt": "x", "max_tokens": ' + b"9" * 5000 + b"}", "number out of range"),
    ],
)
async def test_bad_bytes(http: httpx2.AsyncClient, engine: EchoEngine, body: bytes, says: str) -> None:
    reply = await http.post("/v1/completions", content=body)
    error = reply.json()["error"]
    assert reply.status_code == 400
    assert says in error["message"]
    assert len(reply.text) < 1000
    await assert_healthy(http, engine)


async def test_prompt_too_long_has_openais_code(client: openai.AsyncOpenAI, engine: EchoEngine) -> None:
    with pytest.raises(openai.BadRequestError, match="maximum context length is 64 tokens") as caught:
        await client.completions.create(model="mock", prompt="word " * 100, stream=True)
    assert caught.value.code == "context_length_exceeded"
    assert engine.live == set()


@pytest.mark.parametrize("words", [63, 100])
async def test_a_chat_too_long_is_the_messages_fault(http: httpx2.AsyncClient, words: int) -> None:
    """Also where only the answer does not fit, which the engine finds."""
    turns = [{"role": "user", "content": "word " * words}]
    reply = await http.post("/v1/chat/completions", json={"model": "mock", "messages": turns})
    error = reply.json()["error"]
    assert error["message"].startswith("This model's maximum context length is 64 tokens. ")
    assert (error["param"], error["code"]) == ("messages", "context_length_exceeded")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_unknown_model(http: httpx2.AsyncClient, engine: EchoEngine, path: str) -> None:
    asked = CHAT | TEXT | {"model": "gpt-9"}
    error = assert_error(await http.post(path, json=asked), 404, "no model `gpt-9` here, only `mock`", "model")
    assert error["code"] == "model_not_found"
    await assert_healthy(http, engine)


async def test_chat_without_a_template(http: httpx2.AsyncClient, engine: EchoEngine) -> None:
    engine.tokenizer.has_template = False
    assert_error(await http.post("/v1/chat/completions", json=CHAT), 400, "no chat template (hint: use", "model")
    await assert_healthy(http, engine)


async def test_wrong_path_and_method(http: httpx2.AsyncClient) -> None:
    assert (
        assert_error(await http.get("/v1/nothing"), 404, "`/v1/nothing` is not supported by this server")["code"]
        == "not_found"
    )
    reply = await http.get("/v1/completions")
    assert (
        assert_error(reply, 405, "`GET` is not allowed for `/v1/completions`, only POST")["code"]
        == "method_not_allowed"
    )
    assert reply.headers["allow"] == "POST"


@pytest.mark.parametrize("told_length", [False, True])
async def test_body_too_large(engine: EchoEngine, told_length: bool) -> None:
    async def parts() -> Any:
        for _ in range(4):
            yield b" " * 512

    app = create_app(engine, ServerConfig(max_body_bytes=1024))
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://kvloom") as http:
        reply = await http.post("/v1/completions", content=b" " * 2048 if told_length else parts())
        assert_error(reply, 413, "at most 1024")
        await assert_healthy(http, engine)


@pytest.mark.parametrize("word", ["!crash", "!fail"])
async def test_our_own_faults_say_nothing(
    faulty_http: httpx2.AsyncClient, faulty: FaultyEngine, word: str, caplog: pytest.LogCaptureFixture
) -> None:
    reply = await faulty_http.post("/v1/completions", json=TEXT | {"prompt": word, "max_tokens": 4})
    error = assert_error(reply, 500, "internal error")
    assert error["type"] == "server_error"
    assert "secret" not in reply.text
    assert "secret detail" in caplog.text
    await assert_healthy(faulty_http, faulty)


async def test_a_fault_outside_the_routes_is_caught(engine: EchoEngine, app: FastAPI) -> None:
    engine.stats = lambda: 1 / 0  # type: ignore[method-assign, assignment, return-value]
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://kvloom") as http:
        assert_error(await http.get("/metrics"), 500, "internal error")


async def test_the_key_guards(engine: EchoEngine) -> None:
    app = create_app(engine, ServerConfig(api_key="secret-key"))
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://kvloom") as http:
        for path in ("/v1/models", "/v1/anything", "/cache"):
            for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "secret-key"}):
                reply = await http.get(path, headers=headers)
                assert assert_error(reply, 401, "API key")["code"] == "invalid_api_key"
        assert (await http.post("/cache/reset")).status_code == 401
        assert engine.resets == 0
        good = {"Authorization": "Bearer secret-key"}
        assert (await http.get("/v1/models", headers=good)).status_code == 200
        assert (await http.get("/cache", headers=good)).status_code == 200
        assert (await http.get("/health")).status_code == 200
    assert "secret-key" not in json.dumps(repr(ServerConfig(api_key="secret-key")))
