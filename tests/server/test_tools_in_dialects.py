"""Tools and forms of answers in the dialects of their own events: a tiny model without sense, held to grammars."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import httpx2
import pytest
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI

from kvloom.attend.cpu import CpuAttend
from kvloom.config import CacheConfig, EngineConfig, SchedulerConfig
from kvloom.engine.async_engine import AsyncEngine
from kvloom.engine.factory import make_engine
from kvloom.model.text.messages import normal_messages
from kvloom.policy.retention.lru import LeastRecentlyUsed
from kvloom.server.app import create_app
from tiny import VOCAB, CharStream, CharTokenizer, TinyModel

SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Oslo", "Rome"]}, "days": {"type": "integer", "minimum": 1, "maximum": 7}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
ASK: Any = [{"role": "user", "content": "weather?"}]
_WHITE = {VOCAB - 2: " ", VOCAB - 1: "\n"}
_WHITE_IDS = {text: token for token, text in _WHITE.items()}


class LineStream(CharStream):
    def push(self, token_id: int) -> str:
        return LineTokenizer.token_text(token_id)


class LineTokenizer(CharTokenizer):
    """Has tokens for the white space in which calls are written."""

    @staticmethod
    def token_text(token_id: int) -> str:
        return _WHITE.get(token_id, chr(32 + token_id))

    def encode(self, text: str, add_special_tokens: bool | None = True, max_tokens: int | None = None) -> list[int]:
        return [_WHITE_IDS.get(letter, min(max(ord(letter) - 32, 1), VOCAB - 3)) for letter in text]

    def stream(self, skip_special_tokens: bool, after: Any = ()) -> LineStream:
        return LineStream()

    def chat_prompt(self, messages: Any, add_generation_prompt: bool = True, *rest: Any, **more: Any) -> str:
        turns = "".join(f"{turn['role']}: {turn['content']}\n" for turn in normal_messages(messages, ""))
        return turns + "assistant: " if add_generation_prompt else turns


@pytest.fixture
async def http() -> AsyncIterator[httpx2.AsyncClient]:
    config = EngineConfig(
        model="tiny",
        max_model_len=3000,
        cache=CacheConfig(kv_bytes="8MiB", kv_dtype="float32", slab_bytes=64 * 1024),
        scheduler=SchedulerConfig(step_tokens=512, max_seqs=8),
    )
    attend = partial(CpuAttend, threads=1)
    tokenizer = LineTokenizer()
    engine = make_engine(
        TinyModel((None,), context_length=3000),
        tokenizer,
        config,
        lambda arena: attend(arena.memory),
        LeastRecentlyUsed(),
    )
    served = AsyncEngine.over(engine, tokenizer, "tiny")  # type: ignore[arg-type]
    try:
        transport = httpx2.ASGITransport(create_app(served))
        async with httpx2.AsyncClient(transport=transport, base_url="http://kvloom") as client:
            yield client
        await served.check()
    finally:
        served.close()


@pytest.fixture
def claude(http: httpx2.AsyncClient) -> AsyncAnthropic:
    return AsyncAnthropic(api_key="none", base_url="http://kvloom", http_client=http, max_retries=0)


@pytest.fixture
def gpt(http: httpx2.AsyncClient) -> AsyncOpenAI:
    return AsyncOpenAI(api_key="none", base_url="http://kvloom/v1", http_client=http, max_retries=0)


def check_arguments(arguments: Any) -> None:
    assert arguments["city"] in ("Oslo", "Rome")
    assert 1 <= arguments["days"] <= 7
    assert arguments.keys() == {"city", "days"}


# -- messages ------------------------------------------------------------------------------------------------------

TOOLS: Any = [{"name": "weather", "description": "of a city", "input_schema": SCHEMA}, {"name": "clock"}]


def message(**more: Any) -> dict[str, Any]:
    fixed = {"temperature": 0, "kvloom": {"cache": {"read": False}}}
    return {"model": "tiny", "messages": ASK, "max_tokens": 400, "tools": TOOLS, "extra_body": fixed} | more


async def test_a_message_calls_a_tool_whole_and_streamed(claude: AsyncAnthropic) -> None:
    asked = message(tool_choice={"type": "tool", "name": "weather"})
    whole = await claude.messages.create(**asked)
    (block,) = whole.content
    assert (whole.stop_reason, block.type) == ("tool_use", "tool_use")
    assert block.name == "weather"  # type: ignore[union-attr]
    check_arguments(block.input)  # type: ignore[union-attr]
    async with claude.messages.stream(**asked) as stream:
        kinds = [event.type async for event in stream]
        final = await stream.get_final_message()
    assert kinds.count("content_block_start") == kinds.count("content_block_stop") == 1
    assert block_without_id(final) == block_without_id(whole)
    turns: Any = [
        *ASK,
        {"role": "assistant", "content": [block.model_dump()]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": block.id, "content": "rain"}]},  # type: ignore[union-attr]
    ]
    again = await claude.messages.create(**message(messages=turns, tool_choice={"type": "none"}, max_tokens=4))
    assert [each.type for each in again.content] == ["text"]


def block_without_id(reply: Any) -> Any:
    document = reply.model_dump(exclude={"id"}, warnings=False)
    for block in document["content"]:
        block.pop("id", None)
    return document


async def test_any_may_call_several(claude: AsyncAnthropic) -> None:
    reply = await claude.messages.create(**message(tool_choice={"type": "any"}))
    assert reply.content
    assert {block.type for block in reply.content} == {"tool_use"}


async def test_a_message_of_a_form(claude: AsyncAnthropic) -> None:
    config: Any = {"format": {"type": "json_schema", "schema": SCHEMA}}
    reply = await claude.messages.create(**message(tools=[], output_config=config))
    check_arguments(json.loads(reply.content[0].text))  # type: ignore[union-attr]


async def test_a_breakpoint_among_tools_stands_behind_them_and_the_system_prompt(claude: AsyncAnthropic) -> None:
    tools: Any = [TOOLS[0] | {"cache_control": {"type": "ephemeral", "ttl": "1h"}}]
    counts = []
    for content in ("one", "another"):
        asked = message(
            tools=tools,
            tool_choice={"type": "auto"},
            system="Be kind.",
            messages=[{"role": "user", "content": content}],
            max_tokens=0,
        )
        usage = (await claude.messages.create(**asked)).usage
        counts.append(usage.cache_creation.ephemeral_1h_input_tokens)  # type: ignore[union-attr]
        assert usage.input_tokens < 40
    assert counts[0] == counts[1] > len(json.dumps(SCHEMA)) / 2


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools.0.type"),
        ({"tools": [{"name": "a"}, {"name": "a"}]}, "tools.1"),
        ({"tools": [{"name": "a", "input_schema": {"type": "string"}}]}, "tools.0.input_schema"),
        ({"tool_choice": {"type": "tool"}}, "tool_choice"),
        ({"tool_choice": {"type": "tool", "name": "b"}}, "tool_choice"),
        ({"tools": [], "tool_choice": {"type": "any"}}, "tool_choice"),
        ({"output_config": {"effort": "low"}}, "effort"),
        ({"tools": [], "output_config": {"format": {"type": "json_schema", "schema": {"type": 5}}}}, "output_config"),
    ],
)
async def test_what_is_wrong_with_tools_of_a_message_is_named(
    http: httpx2.AsyncClient, more: dict[str, Any], param: str
) -> None:
    body = {"model": "tiny", "messages": ASK, "max_tokens": 4, "tools": TOOLS} | more
    reply = await http.post("/v1/messages", json=body)
    assert (reply.status_code, reply.json()["error"].get("param")) == (400, param), reply.text


# -- responses -----------------------------------------------------------------------------------------------------

FUNCTIONS: Any = [
    {"type": "function", "name": "weather", "description": "of a city", "parameters": SCHEMA, "strict": True}
]


def response(**more: Any) -> dict[str, Any]:
    fixed = {"kvloom": {"cache": {"read": False}}}
    asked = {"model": "tiny", "input": ASK, "max_output_tokens": 400, "temperature": 0, "tools": FUNCTIONS}
    return asked | {"extra_body": fixed} | more


async def test_a_response_calls_a_function_and_goes_on_with_its_output(gpt: AsyncOpenAI) -> None:
    asked = response(tool_choice="required", parallel_tool_calls=False)
    whole = await gpt.responses.create(**asked)
    (call,) = whole.output
    assert (whole.status, call.type) == ("completed", "function_call")
    check_arguments(json.loads(call.arguments))  # type: ignore[union-attr]
    assert whole.tools[0].name == "weather"  # type: ignore[union-attr]
    assert (whole.tool_choice, whole.parallel_tool_calls) == ("required", False)
    async with gpt.responses.stream(**asked) as stream:
        kinds = [event.type async for event in stream]
        final = await stream.get_final_response()
    assert kinds[:3] == ["response.created", "response.in_progress", "response.output_item.added"]
    assert set(kinds[3:-3]) == {"response.function_call_arguments.delta"}
    assert kinds[-3:] == [
        "response.function_call_arguments.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert final.output[0].arguments == call.arguments  # type: ignore[union-attr]
    output: Any = [{"type": "function_call_output", "call_id": call.call_id, "output": "rain"}]  # type: ignore[union-attr]
    after = await gpt.responses.create(
        **response(input=output, previous_response_id=whole.id, tool_choice="none", max_output_tokens=4)
    )
    assert [item.type for item in after.output] == ["message"]
    stored = await gpt.responses.input_items.list(after.id)
    assert [item.type for item in stored.data] == ["function_call_output"]


@pytest.mark.parametrize(
    "form",
    [
        {"type": "json_schema", "name": "place", "schema": SCHEMA, "strict": True},
        {"type": "json_schema", "schema": SCHEMA},
    ],
)
async def test_a_response_of_a_form(gpt: AsyncOpenAI, form: Any) -> None:
    reply = await gpt.responses.create(**response(tools=[], text={"format": form}))
    check_arguments(json.loads(reply.output_text))
    assert reply.text is not None
    assert reply.text.format.type == "json_schema"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
        ({"tools": [FUNCTIONS[0], FUNCTIONS[0]]}, "tools.1"),
        ({"tools": [{"type": "function", "name": "a", "parameters": {"type": "array"}}]}, "tools.0.parameters"),
        ({"tool_choice": {"type": "function", "name": "b"}}, "tool_choice"),
        ({"tool_choice": "perhaps"}, "tool_choice"),
        ({"text": {"format": {"type": "json_schema"}}}, "text"),
        ({"text": {"verbosity": "low"}}, "verbosity"),
        ({"text": {"format": {"type": "json_object"}}, "tool_choice": "required"}, "tool_choice"),
    ],
)
async def test_what_is_wrong_with_tools_of_a_response_is_named(
    http: httpx2.AsyncClient, more: dict[str, Any], param: str
) -> None:
    body = {"model": "tiny", "input": ASK, "max_output_tokens": 4, "tools": FUNCTIONS} | more
    reply = await http.post("/v1/responses", json=body)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param), reply.text
