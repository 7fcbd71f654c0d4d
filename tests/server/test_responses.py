"""OpenAI's Responses API through its official client."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx2
import openai
import pytest
from openai import AsyncOpenAI

from kvloom.config import ServerConfig
from kvloom.server.app import create_app
from kvloom.server.dialect.responses.store import ResponseStore, StoredResponse
from kvloom.server.edge.keys import Key, Keyring
from kvloom.server.errors import NothingStored
from timed import Clock

from .conftest import Engines
from .echo_engine import EchoEngine
from .exchange import exchange
from .word_tokenizer import WordTokenizer

ANSWER = " <user> one two <assistant>"
FRESH = {"kvloom": {"cache": {"read": False}}}


def sdk(http: httpx2.AsyncClient, key: str = "none") -> AsyncOpenAI:
    return AsyncOpenAI(api_key=key, base_url="http://kvloom/v1", http_client=http, max_retries=0)


def client_of(
    engine: EchoEngine, config: ServerConfig | None = None, keyring: Keyring | None = None
) -> httpx2.AsyncClient:
    transport = httpx2.ASGITransport(create_app(engine, config, keyring))
    return httpx2.AsyncClient(transport=transport, base_url="http://kvloom")


def prompt(engine: EchoEngine) -> str:
    return engine.tokenizer.decode(engine.prompts[-1])


async def test_answers_whole(client: AsyncOpenAI, engine: EchoEngine) -> None:
    reply = await client.responses.create(model="mock", input="one two", max_output_tokens=4, metadata={"a": "b"})
    assert (reply.object, reply.status, reply.error) == ("response", "incomplete", None)
    assert reply.id.startswith("resp_")
    assert reply.output_text == ANSWER
    assert reply.output[0].type == "message"
    assert reply.output[0].status == "incomplete"
    assert reply.incomplete_details is not None
    assert reply.incomplete_details.reason == "max_output_tokens"
    assert reply.metadata == {"a": "b"}
    usage = reply.usage
    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (4, 4, 8)
    assert (usage.input_tokens_details.cached_tokens, usage.input_tokens_details.cache_write_tokens) == (0, 4)
    again = await client.responses.create(model="mock", input="one two", max_output_tokens=4)
    assert again.usage is not None
    assert again.usage.input_tokens_details.cached_tokens == 3
    await engine.assert_idle()


async def test_streams_what_the_whole_response_says(client: AsyncOpenAI) -> None:
    asked: dict[str, Any] = {"model": "mock", "input": "one two", "max_output_tokens": 3, "extra_body": FRESH}
    whole = await client.responses.create(**asked)
    events = [event async for event in await client.responses.create(**asked, stream=True)]
    assert [event.type for event in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        *["response.output_text.delta"] * 3,
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.incomplete",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == whole.output_text
    first, last = events[0].response, events[-1].response  # type: ignore[union-attr]
    assert (first.status, first.output, first.usage) == ("in_progress", [], None)
    assert plain(last) == plain(whole)


def plain(response: Any) -> Any:
    """But for what is new in every response."""
    document = response.model_dump(exclude={"id", "created_at", "completed_at"}, warnings=False)
    for item in document["output"]:
        del item["id"]
        for part in item["content"]:
            part.pop("parsed", None)
    return document


async def test_what_stops_by_itself_is_completed(new_engine: Engines) -> None:
    tokenizer = WordTokenizer()
    tokenizer.encode("<user> one two")
    tokenizer.eos_token_ids = frozenset({3})
    async with client_of(new_engine(tokenizer=tokenizer)) as http:
        asked: dict[str, Any] = {"model": "mock", "input": "one two", "extra_body": FRESH}
        whole = await sdk(http).responses.create(**asked)
        assert (whole.status, whole.output_text, whole.incomplete_details) == ("completed", " <user> one", None)
        assert whole.output[0].status == "completed"  # type: ignore[union-attr]
        assert whole.completed_at is not None
        async with sdk(http).responses.stream(**asked) as stream:
            kinds = [event.type async for event in stream]
            final = await stream.get_final_response()
        assert kinds[-1] == "response.completed"
        assert plain(final) == plain(whole)


async def test_without_a_limit_the_answer_fills_the_context(client: AsyncOpenAI, engine: EchoEngine) -> None:
    reply = await client.responses.create(model="mock", input="one two")
    assert (reply.status, engine.params[-1].max_tokens) == ("incomplete", None)


async def test_items_and_fields_reach_the_engine(client: AsyncOpenAI, engine: EchoEngine) -> None:
    await client.responses.create(
        model="mock",
        instructions="be kind",
        input=[
            {"role": "user", "content": "one"},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "two"}]},
            {"type": "reasoning", "id": "rs_1", "summary": []},
            {"role": "developer", "content": [{"type": "input_text", "text": "three"}]},
        ],  # type: ignore[list-item]
        temperature=0.5,
        top_p=0.25,
        max_output_tokens=2,
    )
    params = engine.params[-1]
    assert (params.temperature, params.top_p, params.max_tokens) == (0.5, 0.25, 2)
    assert prompt(engine).split("three")[0].split() == [
        "<system>",
        "be",
        "kind",
        "<user>",
        "one",
        "<assistant>",
        "two",
        "<system>",
    ]


async def test_calls_and_outputs_reach_the_template(client: AsyncOpenAI, engine: EchoEngine) -> None:
    await client.responses.create(
        model="mock",
        input=[
            {"role": "user", "content": "one"},
            {"type": "function_call", "call_id": "call_1", "name": "find", "arguments": '{"what": "it"}'},
            {"type": "function_call_output", "call_id": "call_1", "output": "there"},
        ],
        max_output_tokens=1,
    )
    call = ' <assistant> <tool_call> {"name": "find", "arguments": {"what": "it"}} </tool_call>'
    assert prompt(engine) == f" <user> one{call} <user> <tool_response> there </tool_response> <assistant>"


async def test_input_tokens_are_counted(client: AsyncOpenAI) -> None:
    count = await client.responses.input_tokens.count(model="mock", input="one two", instructions="be kind")
    assert count.input_tokens == 7


# -- what is kept --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
async def test_a_response_is_continued_over_its_cached_context(
    client: AsyncOpenAI, engine: EchoEngine, stream: bool
) -> None:
    asked: dict[str, Any] = {"model": "mock", "input": "one two", "instructions": "be kind", "max_output_tokens": 2}
    if stream:
        events = [event async for event in await client.responses.create(**asked, stream=True)]
        first: Any = events[-1].response  # type: ignore[union-attr]
    else:
        first = await client.responses.create(**asked)
    second = await client.responses.create(
        model="mock", input="three", previous_response_id=first.id, instructions="be kind", max_output_tokens=1
    )
    assert prompt(engine) == f" <system> be kind <user> one two <assistant>{first.output_text} <user> three <assistant>"
    assert second.usage is not None
    assert second.usage.input_tokens_details.cached_tokens >= 8
    third = await client.responses.create(
        model="mock", input="four", previous_response_id=second.id, max_output_tokens=1
    )
    assert prompt(engine).startswith(" <user> one two"), "instructions are not carried over"
    assert prompt(engine).endswith(f" <user> three <assistant>{second.output_text} <user> four <assistant>")
    assert third.previous_response_id == second.id


async def test_stored_responses_are_read_listed_and_deleted(client: AsyncOpenAI) -> None:
    first = await client.responses.create(model="mock", input="one two", max_output_tokens=1)
    second = await client.responses.create(
        model="mock",
        input=[{"role": "user", "content": "three"}, {"role": "user", "content": "four"}],
        previous_response_id=first.id,
        max_output_tokens=1,
    )
    assert await client.responses.retrieve(second.id) == second
    items = await client.responses.input_items.list(second.id)
    texts = [item.content[0].text for item in items.data]  # type: ignore[union-attr]
    assert texts == ["four", "three"]
    page = await client.responses.input_items.list(second.id, order="asc", limit=1)
    assert [item.content[0].text async for item in page] == ["three", "four"]  # type: ignore[union-attr]
    await client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError, match="not found"):
        await client.responses.retrieve(first.id)
    with pytest.raises(openai.NotFoundError):
        await client.responses.delete(first.id)
    await client.responses.create(model="mock", input="x", previous_response_id=second.id, max_output_tokens=1)


async def test_what_is_not_to_be_stored_is_not(client: AsyncOpenAI) -> None:
    reply = await client.responses.create(model="mock", input="one", max_output_tokens=1, store=False)
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(reply.id)
    with pytest.raises(openai.BadRequestError, match="Previous response with id") as caught:
        await client.responses.create(model="mock", input="two", previous_response_id=reply.id)
    assert (caught.value.code, caught.value.param) == ("previous_response_not_found", "previous_response_id")


async def test_another_key_finds_nothing(new_engine: Engines) -> None:
    keyring = Keyring((Key("alice", "a"), Key("bob", "b"), Key("root", "r", "admin")))
    async with client_of(new_engine(), None, keyring) as http:
        alice, others = sdk(http, "a"), [sdk(http, "b"), sdk(http, "r")]
        reply = await alice.responses.create(model="mock", input="one", max_output_tokens=1)
        for other in others:
            for ask in (other.responses.retrieve, other.responses.delete, other.responses.input_items.list):
                with pytest.raises(openai.NotFoundError):
                    await ask(reply.id)
            with pytest.raises(openai.BadRequestError, match="not found"):
                await other.responses.create(model="mock", input="two", previous_response_id=reply.id)
        assert (await alice.responses.retrieve(reply.id)).id == reply.id


def stored(name: str, size: int = 10) -> StoredResponse:
    return StoredResponse({"id": name, "text": "x" * size}, [], [])


def test_the_store_is_bounded_in_number_bytes_and_time() -> None:
    clock = Clock()
    config = ServerConfig(stored_responses=3, stored_responses_bytes=400, stored_responses_seconds=60.0)
    store = ResponseStore(config, clock)

    def names(owner: str = "a") -> list[str]:
        found = []
        for name in "123456789":
            try:
                found.append(store.find(owner, name).document["id"])
            except NothingStored:
                continue
        return found

    for name in "1234":
        store.keep("a", stored(name))
    assert names() == ["2", "3", "4"]
    store.keep("b", stored("5"))
    assert (names(), names("b")) == (["2", "3", "4"], ["5"]), "everybody has room of their own"
    store.keep("a", stored("6", 320))
    assert names() == ["4", "6"], "as many bytes as there is room for"
    store.keep("a", stored("7", 1000))
    assert names() == ["4", "6"], "what never fits drops nothing"
    clock.now_s += 50
    store.keep("b", stored("8"))
    clock.now_s += 11
    assert (names(), names("b")) == ([], ["8"])
    clock.now_s += 60
    assert names("b") == []


# -- errors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": []}, "input.items"),
        ({"input": None}, "input.items"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input.items.0"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input.items.0.message.content.parts.0"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"text": {"format": {"type": "json_schema"}}}, "text"),
        ({"truncation": "auto"}, "truncation"),
        ({"background": True}, "background"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"messages": []}, "messages"),
        ({"previous_response_id": "resp_x"}, "previous_response_id"),
        ({"kvloom": {"cash": 1}}, "kvloom.cash"),
        ({"input": "w " * 100}, "input"),
    ],
)
async def test_what_is_wrong_is_named(http: httpx2.AsyncClient, body: dict[str, Any], param: str) -> None:
    reply = await http.post("/v1/responses", json={"model": "mock", "input": "one"} | body)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)


async def test_what_is_neutral_passes(http: httpx2.AsyncClient) -> None:
    body = {
        "model": "mock",
        "input": "one",
        "max_output_tokens": 1,
        "text": {"format": {"type": "text"}, "verbosity": "medium"},
        "reasoning": {"effort": None},
        "truncation": "disabled",
        "tools": [],
        "tool_choice": "auto",
        "include": ["reasoning.encrypted_content"],
        "service_tier": "auto",
        "parallel_tool_calls": True,
        "novelty": 1,
    }
    reply = await http.post("/v1/responses", json=body)
    assert (reply.status_code, reply.headers["x-kvloom-ignored"]) == (200, "novelty")


async def test_pages_of_items_are_checked(http: httpx2.AsyncClient) -> None:
    name = (await http.post("/v1/responses", json={"model": "mock", "input": "x", "max_output_tokens": 1})).json()["id"]
    for query in ("limit=0", "limit=101", "limit=x", "order=up"):
        assert (await http.get(f"/v1/responses/{name}/input_items?{query}")).status_code == 400
    assert (await http.get(f"/v1/responses/{name}/input_items?after=x")).status_code == 404
    assert (await http.get(f"/v1/responses/{name}?stream=true")).status_code == 400


async def test_a_fault_in_a_stream_is_a_failed_response(faulty_http: httpx2.AsyncClient) -> None:
    body = {"model": "mock", "input": "!crash", "max_output_tokens": 5, "stream": True}
    reply = await faulty_http.post("/v1/responses", json=body)
    last = json.loads(reply.text.strip().split("\n\n")[-1].split("data: ")[1])
    assert (last["type"], last["response"]["status"]) == ("response.failed", "failed")
    assert last["response"]["error"] == {
        "code": "server_error",
        "message": "internal error: see the server's log",
    }
    with pytest.raises(openai.NotFoundError):
        await sdk(faulty_http).responses.retrieve(last["response"]["id"])


async def test_a_refusal_after_a_silence_is_an_error_event(new_engine: Engines) -> None:
    engine = new_engine(held=True)
    app = create_app(engine, ServerConfig(heartbeat_seconds=0.02))
    async with exchange(app, "/v1/responses", input="one", stream=True, max_output_tokens=1) as talk:
        await talk.until_frames(1)
        talk.task.cancel()
        await asyncio.wait((talk.task,))
    event = json.loads(talk.frames[-1].decode().split("data: ")[1])
    assert (event["type"], event["code"], event["sequence_number"]) == ("error", "server_stopping", 0)


@pytest.mark.parametrize("stream", [False, True])
async def test_leaving_aborts_and_stores_nothing(new_engine: Engines, stream: bool) -> None:
    engine = new_engine(pace_s=0.005, max_model_len=8000)
    async with exchange(create_app(engine), "/v1/responses", input="one", stream=stream) as talk:
        while not engine.live:
            await asyncio.sleep(0.005)
        if stream:
            await talk.until_frames(3)
    assert engine.aborted == engine.seen
    await engine.assert_idle()
