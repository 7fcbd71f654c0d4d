"""Tools and forms of answers, through OpenAI's own client, over a tiny model that would say anything."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal

import httpx2
import jsonschema
import openai
import pytest
from pydantic import BaseModel, ConfigDict, Field

import tiny_decoder
from kvloom.attend.cpu import CpuAttend
from kvloom.config import CacheConfig, EngineConfig, ServerConfig
from kvloom.engine.async_engine import AsyncEngine
from kvloom.engine.factory import make_engine
from kvloom.policy.retention.lru import LeastRecentlyUsed
from kvloom.server.app import create_app
from trained_tokenizer import trained_tokenizer

from .tool_templates import CHATML, HERMES, LLAMA3, PYTHONIC

TEMPLATES = {"hermes": HERMES, "llama3": LLAMA3, "pythonic": PYTHONIC, "in_words": CHATML}
VOCAB, CONTEXT = 304, 4096
ASK: list[Any] = [{"role": "user", "content": "Weather in Oslo?"}]
PARAMETERS = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 8},
        "days": {"type": "integer", "minimum": 1, "maximum": 7},
    },
    "required": ["city", "days"],
}
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": "get_weather", "description": "of a city", "parameters": PARAMETERS}},
    {"type": "function", "function": {"name": "now"}},
]


@asynccontextmanager
async def talk(template: str = HERMES, config: ServerConfig | None = None) -> AsyncIterator[openai.AsyncOpenAI]:
    tokenizer = trained_tokenizer(chat_template=template)
    made = make_engine(
        tiny_decoder.decoder((None, None), vocab_size=VOCAB, context_length=CONTEXT),
        tokenizer,
        EngineConfig(model="tiny", cache=CacheConfig(kv_bytes="16MiB", slab_bytes=64 * 1024)),
        lambda arena: CpuAttend(arena.memory, threads=1),
        LeastRecentlyUsed(),
    )
    engine = AsyncEngine.over(made, tokenizer, "tiny")
    transport = httpx2.ASGITransport(create_app(engine, config))
    try:
        async with httpx2.AsyncClient(transport=transport, base_url="http://kvloom") as http:
            yield openai.AsyncOpenAI(api_key="none", base_url="http://kvloom/v1", http_client=http, max_retries=0)
            await engine.check()
    finally:
        engine.close()


def calls_of(message: Any) -> list[tuple[str, Any]]:
    return [(call.function.name, json.loads(call.function.arguments)) for call in message.tool_calls or ()]


def assert_valid(calls: list[tuple[str, Any]]) -> None:
    schemas = {"get_weather": PARAMETERS, "now": {"maxProperties": 0}}
    assert calls
    for name, arguments in calls:
        jsonschema.validate(arguments, schemas[name])


@pytest.mark.parametrize("form", TEMPLATES)
async def test_required_calls_are_valid_and_stream_as_they_are(form: str) -> None:
    async with talk(TEMPLATES[form]) as client:
        for seed in range(4):
            asked: dict[str, Any] = {
                "model": "tiny",
                "messages": ASK,
                "tools": TOOLS,
                "tool_choice": "required",
                "parallel_tool_calls": seed % 2 == 0,
                "seed": seed,
                "max_tokens": 1500,
            }
            whole = (await client.chat.completions.create(**asked)).choices[0]
            calls = calls_of(whole.message)
            assert whole.finish_reason == "tool_calls"
            assert whole.message.content is None
            assert seed % 2 == 0 or len(calls) == 1
            assert_valid(calls)
            async with client.chat.completions.stream(**asked) as stream:
                async for _ in stream:
                    pass
                said = (await stream.get_final_completion()).choices[0]
            assert calls_of(said.message) == calls
            assert (said.finish_reason, said.message.content) == ("tool_calls", None)


async def test_a_call_is_streamed_as_openai_streams_it() -> None:
    async with talk() as client:
        chunks = [
            chunk
            async for chunk in await client.chat.completions.create(
                model="tiny",
                messages=ASK,
                tools=TOOLS[:1],
                tool_choice="required",
                seed=1,
                stream=True,
                max_tokens=1500,
            )
        ]
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert (deltas[0].role, deltas[0].content) == ("assistant", None)
    pieces = [call for delta in deltas for call in delta.tool_calls or ()]
    heads = [piece for piece in pieces if piece.id is not None]
    assert [head.index for head in heads] == list(range(len(heads)))
    assert all(
        (head.type, head.function.name, head.function.arguments) == ("function", "get_weather", "") for head in heads
    )
    assert len(pieces) > 3 * len(heads), "arguments come piece by piece"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices[0].finish_reason] == ["tool_calls"]


async def test_a_named_tool_is_called_once_in_each_of_several_answers() -> None:
    async with talk() as client:
        choice: Any = {"type": "function", "function": {"name": "now"}}
        reply = await client.chat.completions.create(model="tiny", messages=ASK, tools=TOOLS, tool_choice=choice, n=3)
    assert [calls_of(choice.message) for choice in reply.choices] == [[("now", {})]] * 3
    assert len({choice.message.tool_calls[0].id for choice in reply.choices}) == 3


async def test_results_go_back() -> None:
    async with talk() as client:
        first = await client.chat.completions.create(
            model="tiny", messages=ASK, tools=TOOLS, tool_choice="required", seed=1, max_tokens=1500
        )
        message = first.choices[0].message
        results = [{"role": "tool", "tool_call_id": call.id, "content": "rain"} for call in message.tool_calls or ()]
        asked: Any = [*ASK, message.model_dump(exclude_none=True), *results]
        second = await client.chat.completions.create(model="tiny", messages=asked, tools=TOOLS, max_tokens=5)
    assert second.usage.prompt_tokens > first.usage.prompt_tokens
    assert second.usage.prompt_tokens_details.cached_tokens > 0


async def test_what_the_model_says_on_its_own_is_read_too() -> None:
    """A choice beside tools: the model calls or says one of the texts."""
    async with talk() as client:
        seen = set()
        opening = trained_tokenizer().encode("<")
        for seed, bias in ((1, {}), (2, {str(opening[0]): 20})):
            asked: dict[str, Any] = {
                "model": "tiny",
                "messages": ASK,
                "tools": TOOLS,
                "seed": seed,
                "max_tokens": 1500,
                "logit_bias": bias,
                "extra_body": {"structured_outputs": {"choice": ["sunny", "rainy"]}},
            }
            choice = (await client.chat.completions.create(**asked)).choices[0]
            if choice.message.tool_calls:
                assert_valid(calls_of(choice.message))
                assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
            else:
                assert choice.message.content in ("sunny", "rainy")
                assert choice.finish_reason == "stop"
            seen.add(choice.finish_reason)
    assert seen == {"stop", "tool_calls"}


async def test_a_call_that_is_cut_is_told_as_cut() -> None:
    async with talk() as client:
        reply = await client.chat.completions.create(
            model="tiny", messages=ASK, tools=TOOLS[:1], tool_choice="required", seed=1, max_tokens=30
        )
    assert reply.choices[0].finish_reason == "length"


async def test_log_probabilities_and_ids_of_a_streamed_call() -> None:
    async with talk() as client:
        chunks = [
            chunk.choices[0]
            async for chunk in await client.chat.completions.create(
                model="tiny",
                messages=ASK,
                tools=TOOLS,
                tool_choice="required",
                seed=2,
                stream=True,
                logprobs=True,
                max_tokens=300,
                extra_body={"return_token_ids": True},
            )
        ]
    scores = [score for choice in chunks if choice.logprobs for score in choice.logprobs.content]
    ids = [token for choice in chunks for token in choice.model_extra.get("token_ids") or ()]
    assert len(scores) == len(ids) > 0


# -- forms of the answer -------------------------------------------------------------------------------------------


ONE_OR_TWO = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"enum": [1, 2]}}}


class City(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str = Field(max_length=8)
    size: Literal["small", "large"]
    districts: list[int] = Field(max_length=2)


async def test_pydantic_models_come_back() -> None:
    async with talk() as client:
        asked: Any = {"model": "tiny", "messages": ASK, "response_format": City, "seed": 3, "max_tokens": 1500}
        reply = await client.chat.completions.parse(**asked)
        assert isinstance(reply.choices[0].message.parsed, City)
        async with client.chat.completions.stream(**asked) as stream:
            async for _ in stream:
                pass
            final = await stream.get_final_completion()
        assert final.choices[0].message.parsed == reply.choices[0].message.parsed


async def test_pydantic_tools_come_back() -> None:
    class Forecast(BaseModel):
        model_config = ConfigDict(extra="forbid")
        city: str = Field(max_length=6)

    async with talk() as client:
        reply = await client.chat.completions.parse(
            model="tiny",
            messages=ASK,
            tools=[openai.pydantic_function_tool(Forecast)],
            tool_choice="required",
            parallel_tool_calls=False,
            seed=1,
            max_tokens=1500,
        )
    assert isinstance(reply.choices[0].message.tool_calls[0].function.parsed_arguments, Forecast)


@pytest.mark.parametrize(
    ("fields", "pattern"),
    [
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"enum": [1, 2]}}}},
            "[12]",
        ),
        ({"structured_outputs": {"regex": "[ab]{3}"}}, "[ab]{3}"),
        ({"structured_outputs": {"choice": ["x y", "z"]}}, "x y|z"),
        ({"structured_outputs": {"grammar": 'start: "a" /[0-9]/'}}, "a[0-9]"),
        ({"structured_outputs": {"json": {"type": "boolean"}}}, "true|false"),
        ({"guided_regex": "[ab]{3}"}, "[ab]{3}"),
        ({"guided_choice": ["q", "r"]}, "q|r"),
        ({"guided_grammar": 'root ::= "yes" | "no"'}, "yes|no"),
        ({"guided_json": {"type": "null"}}, "null"),
        ({"response_format": {"type": "text"}, "guided_json": '{"const": "x"}'}, '"x"'),
    ],
)
async def test_every_way_to_say_a_form(fields: dict[str, Any], pattern: str) -> None:
    async with talk() as client:
        body: Any = {"model": "tiny", "max_tokens": 50, "extra_body": fields}
        chat = await client.chat.completions.create(messages=ASK, **body)
        text = await client.completions.create(prompt=["a", "b"], **body)
    assert re.fullmatch(pattern, chat.choices[0].message.content)
    assert all(re.fullmatch(pattern, choice.text) for choice in text.choices)


async def test_any_json_object() -> None:
    async with talk() as client:
        reply = await client.chat.completions.create(
            model="tiny", messages=ASK, response_format={"type": "json_object"}, max_tokens=2000, seed=4
        )
    if reply.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(reply.choices[0].message.content), dict)
    assert reply.choices[0].message.content.startswith("{")


async def test_strict_schemas_are_held_to_or_refused() -> None:
    schema = {"type": "array", "items": {"enum": [1]}, "maxItems": 2, "uniqueItems": True}
    async with talk() as client:

        def asked(strict: bool) -> Any:
            return {"type": "json_schema", "json_schema": {"name": "s", "schema": schema, "strict": strict}}

        with pytest.raises(openai.BadRequestError, match="uniqueItems"):
            await client.chat.completions.create(model="tiny", messages=ASK, response_format=asked(True))
        reply = await client.chat.completions.create(model="tiny", messages=ASK, response_format=asked(False))
    assert isinstance(json.loads(reply.choices[0].message.content), list)


# -- the prompt, and names -----------------------------------------------------------------------------------------


async def test_the_final_message_is_continued() -> None:
    async with talk(CHATML) as client:
        turns: list[Any] = [*ASK, {"role": "assistant", "content": "It is "}]
        reply = await client.post(
            "http://kvloom/tokenize",
            cast_to=dict[str, Any],
            body={"messages": turns, "continue_final_message": True, "return_token_strs": True},
        )
        text = "".join(reply["token_strs"])
        assert text.endswith("<|im_start|>assistant\nIt is ")
        answer = await client.chat.completions.create(
            model="tiny",
            messages=turns,
            max_tokens=5,
            extra_body={"continue_final_message": True, "add_generation_prompt": False, "echo": True},
        )
        assert answer.choices[0].message.content.startswith("It is ")
        assert answer.usage.prompt_tokens == reply["count"]


async def test_tokens_of_a_chat_with_tools_are_those_of_its_prompt() -> None:
    async with talk() as client:
        told = await client.post(
            "http://kvloom/tokenize", cast_to=dict[str, Any], body={"messages": ASK, "tools": TOOLS}
        )
        reply = await client.chat.completions.create(model="tiny", messages=ASK, tools=TOOLS, max_tokens=1)
        plain = await client.chat.completions.create(
            model="tiny", messages=ASK, tools=TOOLS, tool_choice="none", max_tokens=1
        )
    assert told["count"] == reply.usage.prompt_tokens > plain.usage.prompt_tokens


async def test_a_model_has_the_names_that_it_is_given() -> None:
    async with talk(config=ServerConfig(served_model_name="gpt-x, other")) as client:
        listed = [model.id async for model in await client.models.list()]
        assert listed == ["gpt-x", "other"]
        named = await client.chat.completions.create(model="other", messages=ASK, max_tokens=1)
        assert named.model == "other"
        body = {"messages": ASK, "max_tokens": 1}
        unnamed = await client.post("/chat/completions", cast_to=dict[str, Any], body=body)
        assert unnamed["model"] == "gpt-x"
        with pytest.raises(openai.NotFoundError, match="only `gpt-x`, `other`"):
            await client.chat.completions.create(model="tiny", messages=ASK)
