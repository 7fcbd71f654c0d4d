"""Chat completions through the official client."""

from __future__ import annotations

import openai
import pytest
from openai import AsyncOpenAI

from kvloom.engine.cache_params import CacheParams
from kvloom.engine.defaults import SamplingDefaults

from .echo_engine import EchoEngine

ASK = [{"role": "user", "content": "one two"}]
# The mock sees `<user> one two <assistant>` and says it again.
ANSWER = " <user> one two <assistant>"


async def test_answers_whole(client: AsyncOpenAI) -> None:
    reply = await client.chat.completions.create(model="mock", messages=ASK, max_tokens=4)
    choice = reply.choices[0]
    assert choice.message.role == "assistant"
    assert choice.message.content == ANSWER
    assert choice.finish_reason == "length"
    assert choice.logprobs is None
    assert reply.object == "chat.completion"
    assert reply.id.startswith("chatcmpl-")
    assert reply.usage.prompt_tokens == 4
    assert reply.usage.completion_tokens == 4
    assert reply.usage.total_tokens == 8


async def test_streams_what_the_whole_answer_says(client: AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model="mock", messages=ASK, max_tokens=4, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == ANSWER
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None] * 4 + ["length"]
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 4
    assert chunks[-1].usage.prompt_tokens_details.cached_tokens == 0
    assert len({chunk.id for chunk in chunks}) == 1
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}


async def test_without_a_limit_the_answer_fills_the_context(client: AsyncOpenAI, engine: EchoEngine) -> None:
    reply = await client.chat.completions.create(model="mock", messages=ASK)
    assert engine.params[-1].max_tokens is None
    assert reply.usage.total_tokens == engine.max_model_len


async def test_max_completion_tokens_wins(client: AsyncOpenAI) -> None:
    reply = await client.chat.completions.create(model="mock", messages=ASK, max_tokens=9, max_completion_tokens=2)
    assert reply.usage.completion_tokens == 2


@pytest.mark.parametrize("stream", [False, True])
async def test_cached_tokens_are_told(client: AsyncOpenAI, stream: bool) -> None:
    async def cached(**more: object) -> int:
        if not stream:
            reply = await client.chat.completions.create(model="mock", messages=ASK, max_tokens=1, **more)
            return reply.usage.prompt_tokens_details.cached_tokens
        chunks = await client.chat.completions.create(
            model="mock",
            messages=ASK,
            max_tokens=1,
            stream=True,
            stream_options={"include_usage": True},
            **more,
        )
        return [chunk async for chunk in chunks][-1].usage.prompt_tokens_details.cached_tokens

    assert await cached() == 0
    assert await cached() == 3
    assert await cached(extra_body={"cache_salt": "mine"}) == 0


async def test_n_choices(client: AsyncOpenAI) -> None:
    reply = await client.chat.completions.create(model="mock", messages=ASK, n=3, max_tokens=2)
    assert [choice.index for choice in reply.choices] == [0, 1, 2]
    assert [choice.message.content for choice in reply.choices] == [
        " <user> one",
        " one two",
        " two <assistant>",
    ]
    assert reply.usage.completion_tokens == 6
    assert reply.usage.prompt_tokens == 4
    stream = await client.chat.completions.create(model="mock", messages=ASK, n=3, max_tokens=2, stream=True)
    texts, roles = ["", "", ""], [0, 0, 0]
    async for chunk in stream:
        choice = chunk.choices[0]
        texts[choice.index] += choice.delta.content or ""
        roles[choice.index] += choice.delta.role == "assistant"
    assert texts == [choice.message.content for choice in reply.choices]
    assert roles == [1, 1, 1]


async def test_logprobs(client: AsyncOpenAI, engine: EchoEngine) -> None:
    asked = {"model": "mock", "messages": ASK, "max_tokens": 2, "logprobs": True, "top_logprobs": 3}
    reply = await client.chat.completions.create(**asked)
    content = reply.choices[0].logprobs.content
    assert [entry.token for entry in content] == [" <user>", " one"]
    output = await engine.output(engine.prompts[-1], max_tokens=2, logprobs=3)
    entries = [list(entry.values()) for entry in output.logprobs or ()]
    assert [entry.logprob for entry in content] == [chosen.logprob for chosen, *_ in entries]
    assert content[0].bytes == list(b" <user>")
    best = [sorted((score for score in entry if score.rank <= 3), key=lambda score: score.rank) for entry in entries]
    assert [[top.logprob for top in entry.top_logprobs] for entry in content] == [
        [score.logprob for score in scores] for scores in best
    ]
    chunks = [chunk async for chunk in await client.chat.completions.create(**asked, stream=True)]
    streamed = [entry for chunk in chunks if chunk.choices[0].logprobs for entry in chunk.choices[0].logprobs.content]
    assert streamed == content


async def test_logprobs_without_alternatives(client: AsyncOpenAI) -> None:
    reply = await client.chat.completions.create(model="mock", messages=ASK, max_tokens=1, logprobs=True)
    assert reply.choices[0].logprobs.content[0].top_logprobs == []


async def test_every_parameter_arrives(client: AsyncOpenAI, engine: EchoEngine) -> None:
    await client.chat.completions.create(
        model="mock",
        messages=ASK,
        max_tokens=1,
        temperature=0.5,
        top_p=0.25,
        seed=7,
        stop=["x", "y"],
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        logit_bias={"3": -100},
        user="somebody",
        extra_body={
            "top_k": 5,
            "min_p": 0.125,
            "repetition_penalty": 1.5,
            "ignore_eos": True,
            "cache_salt": "s",
            "kvloom": {"cache": {"read": False}},
            "stop_token_ids": [4],
            "include_stop_str_in_output": True,
            "skip_special_tokens": False,
            "prompt_logprobs": 2,
            "never_heard_of": {"it": 1},
        },
    )
    params = engine.params[-1]
    assert (params.temperature, params.top_p, params.top_k, params.min_p) == (0.5, 0.25, 5, 0.125)
    assert (params.presence_penalty, params.frequency_penalty, params.repetition_penalty) == (0.5, -0.5, 1.5)
    assert (params.seed, params.stop, params.stop_token_ids) == (7, ("x", "y"), (4,))
    assert params.logit_bias == {3: -100.0}
    assert (params.ignore_eos, params.include_stop_str_in_output, params.skip_special_tokens) == (
        True,
        True,
        False,
    )
    assert (params.prompt_logprobs, params.logprobs) == (2, None)
    assert engine.caches[-1] == CacheParams(salt="s", read=False)


async def test_nulls_mean_defaults(client: AsyncOpenAI, engine: EchoEngine) -> None:
    nulls = dict.fromkeys(("temperature", "top_p", "stop", "seed", "n", "logit_bias", "tools", "stream"))
    response = await client.post("/chat/completions", body={"model": "mock", "messages": ASK, **nulls}, cast_to=object)
    assert response["choices"][0]["finish_reason"] == "length"
    assert engine.params[-1].temperature == 1.0


async def test_content_parts_roles_and_template(client: AsyncOpenAI, engine: EchoEngine) -> None:
    await client.chat.completions.create(
        model="mock",
        max_tokens=1,
        messages=[
            {"role": "developer", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
            },
            {"role": "tool", "content": "42", "tool_call_id": "1"},
        ],
    )
    said = engine.tokenizer.decode(engine.prompts[-1])
    call, result = '<tool_call> {"name": "f", "arguments": {}} </tool_call>', "<tool_response> 42 </tool_response>"
    assert said == f" <system> be brief <user> a b <assistant> {call} <user> {result} <assistant>"


async def test_stop_string(client: AsyncOpenAI) -> None:
    reply = await client.chat.completions.create(model="mock", messages=ASK, stop="two")
    assert reply.choices[0].message.content == " <user> one "
    assert reply.choices[0].finish_reason == "stop"
    assert reply.choices[0].stop_reason == "two"


async def test_tools_are_fine_when_not_to_be_used(client: AsyncOpenAI) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    reply = await client.chat.completions.create(
        model="mock",
        messages=ASK,
        max_tokens=1,
        tools=[tool],
        tool_choice="none",
        response_format={"type": "text"},
    )
    assert reply.choices[0].message.content == " <user>"


async def test_a_chat_begins_as_its_template_says_unless_asked(client: AsyncOpenAI, engine: EchoEngine) -> None:
    await client.chat.completions.create(model="mock", messages=ASK, max_tokens=1)
    plain = engine.prompts[-1]
    await client.chat.completions.create(
        model="mock", messages=ASK, max_tokens=1, extra_body={"add_special_tokens": True}
    )
    assert engine.prompts[-1] == [0, *plain]


async def test_template_variables_arrive(client: AsyncOpenAI, engine: EchoEngine) -> None:
    extra = {"chat_template_kwargs": {"enable_thinking": False}}
    await client.chat.completions.create(model="mock", messages=ASK, max_tokens=1, extra_body=extra)
    assert engine.tokenizer.decode(engine.prompts[-1]).startswith(" enable_thinking=False <user>")


@pytest.mark.parametrize("name", ["messages", "add_generation_prompt", "self"])
async def test_template_variables_that_are_ours_are_refused(client: AsyncOpenAI, name: str) -> None:
    extra = {"chat_template_kwargs": {name: []}}
    with pytest.raises(openai.BadRequestError, match=f"chat_template_kwargs may not set `{name}`"):
        await client.chat.completions.create(model="mock", messages=ASK, max_tokens=1, extra_body=extra)


async def test_broken_tool_calls_are_the_callers_fault(client: AsyncOpenAI) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{"}}
    told = [*ASK, {"role": "assistant", "content": None, "tool_calls": [call]}]
    with pytest.raises(openai.BadRequestError, match="not a JSON object"):
        await client.chat.completions.create(model="mock", messages=told, max_tokens=1)


async def test_the_models_own_sampling_holds_where_the_request_is_silent(
    client: AsyncOpenAI, engine: EchoEngine
) -> None:
    engine.sampling_defaults = SamplingDefaults({"temperature": 0.6, "top_k": 20, "max_tokens": 3})
    await client.chat.completions.create(model="mock", messages=ASK)
    params = engine.params[-1]
    assert (params.temperature, params.top_k, params.max_tokens) == (0.6, 20, 3)
    await client.chat.completions.create(model="mock", messages=ASK, temperature=0, max_tokens=2)
    params = engine.params[-1]
    assert (params.temperature, params.top_k, params.max_tokens) == (0.0, 20, 2)
    await client.completions.create(model="mock", prompt="x")
    params = engine.params[-1]
    assert (params.temperature, params.top_k, params.max_tokens) == (0.6, 20, 16), "that length is the endpoint's own"
