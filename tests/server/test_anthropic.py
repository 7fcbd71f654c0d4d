"""Anthropic's Messages API through its official client."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import anthropic
import httpx2
import pytest
from anthropic import AsyncAnthropic

from kvloom.config import ServerConfig
from kvloom.server.app import create_app
from kvloom.server.dialect.anthropic.conversation import Turns
from kvloom.server.dialect.anthropic.schemas import MessagesRequest

from .conftest import Engines
from .echo_engine import EchoEngine
from .exchange import exchange

ASK: Any = [{"role": "user", "content": "one two"}]
ANSWER = " <user> one two <assistant>"
EPHEMERAL = {"type": "ephemeral"}
HOUR = {"type": "ephemeral", "ttl": "1h"}


@pytest.fixture
async def claude(http: httpx2.AsyncClient) -> AsyncAnthropic:
    return sdk(http)


def sdk(http: httpx2.AsyncClient, key: str = "none") -> AsyncAnthropic:
    return AsyncAnthropic(api_key=key, base_url="http://kvloom", http_client=http, max_retries=0)


def words(count: int, word: str = "w") -> str:
    return " ".join(f"{word}{n}" for n in range(count))


async def test_answers_whole(claude: AsyncAnthropic, engine: EchoEngine) -> None:
    reply = await claude.messages.create(model="mock", messages=ASK, max_tokens=4)
    assert reply.id.startswith("msg_")
    assert (reply.type, reply.role, reply.model) == ("message", "assistant", "mock")
    assert [block.model_dump(exclude_none=True) for block in reply.content] == [{"type": "text", "text": ANSWER}]
    assert (reply.stop_reason, reply.stop_sequence) == ("max_tokens", None)
    assert (reply.usage.input_tokens, reply.usage.output_tokens) == (4, 4)
    assert (reply.usage.cache_read_input_tokens, reply.usage.cache_creation_input_tokens) == (0, 0)
    again = await claude.messages.create(model="mock", messages=ASK, max_tokens=4)
    assert (again.usage.input_tokens, again.usage.cache_read_input_tokens) == (1, 3)
    await engine.assert_idle()


async def test_streams_what_the_whole_answer_says(claude: AsyncAnthropic) -> None:
    asked: dict[str, Any] = {"model": "mock", "messages": ASK, "max_tokens": 4}
    whole = await claude.messages.create(**asked, extra_body={"kvloom": {"cache": {"read": False}}})
    async with claude.messages.stream(**asked, extra_body={"kvloom": {"cache": {"read": False}}}) as stream:
        kinds = [event.type async for event in stream if event.type != "text"]
        final = await stream.get_final_message()
    assert kinds == [
        "message_start",
        "content_block_start",
        *["content_block_delta"] * 4,
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert final.model_dump(exclude={"id"}) == whole.model_dump(exclude={"id"})


async def test_raw_events_are_named_and_a_message_begins_with_its_input(http: httpx2.AsyncClient) -> None:
    body = {"model": "mock", "messages": ASK, "max_tokens": 1, "stream": True}
    reply = await http.post("/v1/messages", json=body)
    events = [frame.split("\n", 1) for frame in reply.text.strip().split("\n\n")]
    documents = [json.loads(data.removeprefix("data: ")) for _, data in events]
    assert [name.removeprefix("event: ") for name, _ in events] == [document["type"] for document in documents]
    start, last = documents[0]["message"], documents[-2]
    assert (start["content"], start["stop_reason"]) == ([], None)
    assert start["usage"]["input_tokens"] + start["usage"]["cache_read_input_tokens"] == 4
    assert last == {
        "type": "message_delta",
        "delta": {"stop_reason": "max_tokens", "stop_sequence": None},
        "usage": {name: value for name, value in start["usage"].items() if name.endswith("_tokens")}
        | {"output_tokens": 1},
    }


async def test_fields_reach_the_engine(claude: AsyncAnthropic, engine: EchoEngine) -> None:
    reply = await claude.messages.create(
        model="mock",
        system="be kind",
        messages=[
            {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]},
            {"role": "assistant", "content": "three"},
            {"role": "user", "content": "four"},
            {"role": "user", "content": "five"},
        ],
        max_tokens=9,
        extra_body={"temperature": 0.5, "top_p": 0.25, "top_k": 7},
        stop_sequences=["kind <user>"],
        metadata={"user_id": "somebody"},
    )
    params = engine.params[-1]
    assert (params.max_tokens, params.temperature, params.top_p, params.top_k) == (9, 0.5, 0.25, 7)
    text = engine.tokenizer.decode(engine.prompts[-1])
    assert text == " <system> be kind <user> one two <assistant> three <user> four five <assistant>"
    assert (reply.stop_reason, reply.stop_sequence) == ("stop_sequence", "kind <user>")
    assert reply.content[0].text == " <system> be "  # type: ignore[union-attr]


async def test_a_prefill_is_continued(claude: AsyncAnthropic, engine: EchoEngine) -> None:
    turns: Any = [*ASK, {"role": "assistant", "content": " well then"}]
    await claude.messages.create(model="mock", messages=turns, max_tokens=1)
    assert engine.tokenizer.decode(engine.prompts[-1]) == " <user> one two <assistant> well then"


async def test_nothing_asked_for_only_computes_the_prompt(claude: AsyncAnthropic) -> None:
    reply = await claude.messages.create(model="mock", messages=ASK, max_tokens=0)
    assert (reply.content, reply.stop_reason, reply.usage.output_tokens) == ([], "max_tokens", 0)


async def test_a_full_context_is_named(claude: AsyncAnthropic) -> None:
    reply = await claude.messages.create(model="mock", messages=ASK, max_tokens=1000)
    assert (reply.stop_reason, reply.usage.output_tokens) == ("model_context_window_exceeded", 60)


async def test_tokens_are_counted(claude: AsyncAnthropic) -> None:
    count = await claude.messages.count_tokens(model="mock", system="be kind", messages=ASK)
    reply = await claude.messages.create(model="mock", system="be kind", messages=ASK, max_tokens=1)
    assert count.input_tokens == reply.usage.input_tokens == 7


async def test_calls_and_results_reach_the_template(claude: AsyncAnthropic, engine: EchoEngine) -> None:
    turns: Any = [
        *ASK,
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "x"},
                {"type": "text", "text": "look"},
                {"type": "tool_use", "id": "toolu_1", "name": "find", "input": {"what": "it"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "there"}]},
                {"type": "text", "text": "and"},
            ],
        },
    ]
    call = {"id": "toolu_1", "type": "function", "function": {"name": "find", "arguments": {"what": "it"}}}
    body = MessagesRequest.model_validate_json(json.dumps({"model": "mock", "messages": turns, "max_tokens": 1}))
    assert Turns.of(body).turns[1:] == [
        {"role": "assistant", "content": text("look"), "reasoning_content": "hm", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "toolu_1", "content": text("there")},
        {"role": "user", "content": text("and")},
    ]
    await claude.messages.create(model="mock", messages=turns, max_tokens=1)
    said = engine.tokenizer.decode(engine.prompts[-1])
    assert ' <assistant> look <tool_call> {"name": "find", "arguments": {"what": "it"}} </tool_call>' in said
    assert " <user> <tool_response> there </tool_response> <user> and <assistant>" in said


def text(said: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": said}]


# -- cache control -------------------------------------------------------------------------------------------------


async def test_breakpoints_become_marks_and_usage_tells_them_apart(new_engine: Engines) -> None:
    engine = new_engine(max_model_len=256)
    async with client_of(engine) as http:
        claude = sdk(http)
        system: Any = [{"type": "text", "text": words(40), "cache_control": HOUR}]
        content: Any = [
            {"type": "text", "text": words(20, "a"), "cache_control": EPHEMERAL},
            {"type": "text", "text": words(10, "b")},
        ]
        turns: Any = [{"role": "user", "content": content}]
        reply = await claude.messages.create(model="mock", system=system, messages=turns, max_tokens=1)
        assert [(mark.tokens, mark.ttl_s) for mark in engine.caches[-1].marks] == [(41, 3600.0), (62, 300.0)]
        usage = reply.usage
        assert usage.cache_creation is not None
        assert usage.cache_creation.ephemeral_1h_input_tokens == 41
        assert usage.cache_creation.ephemeral_5m_input_tokens == 21
        assert (usage.cache_creation_input_tokens, usage.cache_read_input_tokens, usage.input_tokens) == (62, 0, 11)
        await engine.check()
        assert engine.stats().cache.pinned_bytes > 0
        content[1] = {"type": "text", "text": "other"}
        again = (await claude.messages.create(model="mock", system=system, messages=turns, max_tokens=1)).usage
        assert (again.cache_read_input_tokens, again.cache_creation_input_tokens) == (62, 0)
        assert again.input_tokens == 2


async def test_what_is_not_written_is_not_counted_as_written(claude: AsyncAnthropic) -> None:
    reply = await claude.messages.create(
        model="mock",
        messages=ASK,
        max_tokens=1,
        cache_control={"type": "ephemeral"},
        extra_body={"kvloom": {"cache": {"write": False}}},
    )
    assert (reply.usage.input_tokens, reply.usage.cache_creation_input_tokens) == (4, 0)


@pytest.mark.parametrize(
    ("controls", "says"),
    [
        ([EPHEMERAL] * 5, "there are 5 blocks with cache_control, at most 4 are allowed"),
        ([EPHEMERAL, HOUR], "a cache_control with ttl `1h` comes after one with ttl `5m`"),
        ([{"type": "ephemeral", "ttl": "2h"}], "Input should be '5m' or '1h'"),
        ([{"type": "lasting"}], "Input should be 'ephemeral'"),
    ],
)
async def test_wrong_breakpoints_are_refused(claude: AsyncAnthropic, controls: list[Any], says: str) -> None:
    blocks: Any = [{"type": "text", "text": "x", "cache_control": control} for control in controls]
    with pytest.raises(anthropic.BadRequestError, match=says):
        await claude.messages.create(model="mock", messages=[{"role": "user", "content": blocks}], max_tokens=1)


# -- errors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"max_tokens": None}, "max_tokens: Input should be a valid integer"),
        ({"messages": []}, "messages: List should have at least 1 item"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "Input should be 'user', 'assistant' or 'system'"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "is not supported by this server"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "a turn that no answer can follow"),
        ({"max_tokens": -1}, "max_tokens must be a whole number at least 0"),
        ({"thinking": {"type": "enabled", "budget_tokens": 2000}}, "`thinking` is not supported by this server"),
        ({"stop": ["x"]}, "use `stop_sequences`"),
        ({"stop_sequences": [""]}, "every stop must be a non-empty string"),
        ({"kvloom": {"cash": 1}}, "`kvloom.cash` is unknown"),
    ],
)
async def test_errors_are_in_anthropics_form(http: httpx2.AsyncClient, body: dict[str, Any], says: str) -> None:
    asked = {"model": "mock", "messages": ASK, "max_tokens": 1} | body
    reply = await http.post("/v1/messages", json=asked)
    document = reply.json()
    assert (reply.status_code, document["type"]) == (400, "error")
    assert document["error"]["type"] == "invalid_request_error"
    assert says in document["error"]["message"]


async def test_errors_have_the_clients_types(http: httpx2.AsyncClient) -> None:
    claude = sdk(http)
    with pytest.raises(anthropic.NotFoundError, match="no model `gpt`"):
        await claude.messages.create(model="gpt", messages=ASK, max_tokens=1)
    with pytest.raises(anthropic.BadRequestError, match="This model's maximum context length is 64 tokens") as caught:
        await claude.messages.create(model="mock", messages=[{"role": "user", "content": "w " * 100}], max_tokens=1)
    assert caught.value.body["error"]["param"] == "messages"  # type: ignore[index]
    with pytest.raises(anthropic.NotFoundError, match="`/v1/messages/batches` is not supported by this server"):
        await claude.messages.batches.create(requests=[])


async def test_a_key_is_taken_from_either_header(new_engine: Engines) -> None:
    async with client_of(new_engine(), ServerConfig(api_key="secret")) as http:
        body = {"model": "mock", "messages": ASK, "max_tokens": 1}
        for headers in ({"x-api-key": "secret"}, {"authorization": "Bearer secret"}):
            assert (await http.post("/v1/messages", json=body, headers=headers)).status_code == 200
        for headers in ({"x-api-key": "wrong"}, {"x-api-key": ""}, {}):
            reply = await http.post("/v1/messages", json=body, headers=headers)
            assert (reply.status_code, reply.json()["error"]["type"]) == (401, "authentication_error")
            assert reply.json()["type"] == "error"
        assert (await sdk(http, "secret").messages.create(**body)).stop_reason == "max_tokens"


async def test_a_fault_in_a_stream_is_an_error_event(faulty_http: httpx2.AsyncClient) -> None:
    body = {"model": "mock", "messages": [{"role": "user", "content": "!crash"}], "max_tokens": 5, "stream": True}
    reply = await faulty_http.post("/v1/messages", json=body)
    last = reply.text.strip().split("\n\n")[-1]
    assert last.startswith("event: error\ndata: ")
    assert json.loads(last.split("data: ")[1])["error"]["type"] == "api_error"


async def test_a_silent_stream_gets_pings(new_engine: Engines) -> None:
    engine = new_engine(held=True)
    app = create_app(engine, ServerConfig(heartbeat_seconds=0.02))
    async with exchange(app, "/v1/messages", messages=ASK, stream=True, max_tokens=1) as talk:
        await talk.until_frames(1)
        assert talk.frames[0] == b'event: ping\ndata: {"type": "ping"}\n\n'
        engine.gate.set()
        await talk.task


@pytest.mark.parametrize("stream", [False, True])
async def test_leaving_aborts(new_engine: Engines, stream: bool) -> None:
    engine = new_engine(pace_s=0.005, max_model_len=8000)
    async with exchange(create_app(engine), "/v1/messages", messages=ASK, stream=stream, max_tokens=5000) as talk:
        if stream:
            await talk.until_frames(3)
        else:
            while not engine.live:
                await asyncio.sleep(0.005)
    assert engine.aborted == engine.seen
    await engine.assert_idle()


def client_of(engine: EchoEngine, config: ServerConfig | None = None) -> httpx2.AsyncClient:
    transport = httpx2.ASGITransport(create_app(engine, config))
    return httpx2.AsyncClient(transport=transport, base_url="http://kvloom")


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
@pytest.mark.parametrize("role", ["user", "assistant", "system"])
@pytest.mark.parametrize("content", [[], [{"type": "redacted_thinking", "data": "x"}]])
async def test_messages_without_any_content_are_refused(
    http: httpx2.AsyncClient, path: str, role: str, content: list[Any]
) -> None:
    body = {"model": "mock", "messages": [{"role": role, "content": content}]}
    reply = await http.post(path, json=body | ({"max_tokens": 1} if path == "/v1/messages" else {}))
    assert (reply.status_code, reply.json()["error"]["type"]) == (400, "invalid_request_error")
