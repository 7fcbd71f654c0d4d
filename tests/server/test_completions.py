"""Text completions through the official client."""

from __future__ import annotations

import dataclasses

import pytest
from openai import AsyncOpenAI

from kvloom.engine.params import SamplingParams

from .echo_engine import EchoEngine
from .word_tokenizer import BOS


async def test_answers_sixteen_tokens_unless_told(client: AsyncOpenAI) -> None:
    reply = await client.completions.create(model="mock", prompt="one two")
    assert reply.object == "text_completion"
    assert reply.usage.completion_tokens == 16
    assert reply.choices[0].finish_reason == "length"
    assert reply.usage.prompt_tokens_details.cached_tokens == 0


async def test_every_form_of_prompt(client: AsyncOpenAI, engine: EchoEngine) -> None:
    one, two = engine.tokenizer.encode("one two", add_special_tokens=False)
    for prompt, want in (
        ("one two", [[BOS, one, two]]),
        (["one", "two"], [[BOS, one], [BOS, two]]),
        ([one, two], [[one, two]]),
        ([[one], [two, one]], [[one], [two, one]]),
    ):
        engine.prompts.clear()
        reply = await client.completions.create(model="mock", prompt=prompt, max_tokens=1)
        assert engine.prompts == want
        assert len(reply.choices) == len(want)
        assert reply.usage.prompt_tokens == sum(map(len, want))


@pytest.mark.parametrize("stream", [False, True])
async def test_choices_are_numbered_prompt_by_prompt(client: AsyncOpenAI, stream: bool) -> None:
    asked = {"model": "mock", "prompt": ["a b", "c d"], "n": 2, "max_tokens": 2}
    texts = dict.fromkeys(range(4), "")
    if stream:
        async for chunk in await client.completions.create(**asked, stream=True):
            texts[chunk.choices[0].index] += chunk.choices[0].text
    else:
        reply = await client.completions.create(**asked)
        texts = {choice.index: choice.text for choice in reply.choices}
        assert reply.usage.completion_tokens == 8
    assert texts == {0: " a", 1: " a b", 2: " c", 3: " c d"}


@pytest.mark.parametrize("stream", [False, True])
async def test_echo_with_logprobs(client: AsyncOpenAI, engine: EchoEngine, stream: bool) -> None:
    asked = {"model": "mock", "prompt": "a b", "echo": True, "logprobs": 1, "max_tokens": 2}
    if stream:
        chunks = [chunk async for chunk in await client.completions.create(**asked, stream=True)]
        scores = [chunk.choices[0].logprobs for chunk in chunks]
        text = "".join(chunk.choices[0].text for chunk in chunks)
    else:
        choice = (await client.completions.create(**asked)).choices[0]
        scores, text = [choice.logprobs], choice.text
    assert text == "a b a"
    assert [token for part in scores for token in part.tokens] == [" <s>", " a", " b", " <s>", " a"]
    output = await engine.output(engine.prompts[-1], max_tokens=2, logprobs=0)
    answered = [next(iter(entry.values())).logprob for entry in output.logprobs or ()]
    values = [value for part in scores for value in part.token_logprobs]
    assert values[0] is None
    assert all(value < 0 for value in values[1:])
    assert values[3:] == answered
    assert [value for part in scores for value in part.text_offset] == [0, 0, 1, 3, 3], "<s> is not in the text"
    tops = [top for part in scores for top in part.top_logprobs]
    assert tops[0] is None
    assert all(len(top) >= 1 for top in tops[1:])


async def test_echo_of_token_ids(client: AsyncOpenAI, engine: EchoEngine) -> None:
    ids = engine.tokenizer.encode("x y", add_special_tokens=False)
    reply = await client.completions.create(model="mock", prompt=ids, echo=True, max_tokens=1)
    assert reply.choices[0].text == " x y x"
    assert reply.choices[0].logprobs is None


async def test_prompt_logprobs_in_vllms_form(client: AsyncOpenAI, engine: EchoEngine) -> None:
    reply = await client.completions.create(model="mock", prompt="a b", max_tokens=1, extra_body={"prompt_logprobs": 0})
    told = reply.choices[0].prompt_logprobs
    assert told[0] is None
    params = SamplingParams(max_tokens=1, prompt_logprobs=0)
    outputs = [output async for output in engine.generate(engine.prompts[-1], params)]
    expected = outputs[-1].prompt_logprobs
    assert expected is not None
    assert told[1:] == [
        {str(token): dataclasses.asdict(score) for token, score in (entry or {}).items()} for entry in expected[1:]
    ]
    assert [next(iter(entry.values()))["decoded_token"] for entry in told[1:]] == [" a", " b"]


async def test_top_k_of_minus_one_keeps_all(client: AsyncOpenAI, engine: EchoEngine) -> None:
    await client.completions.create(model="mock", prompt="a", extra_body={"top_k": -1})
    assert engine.params[-1].top_k == 0


async def test_best_of_equal_to_n(client: AsyncOpenAI) -> None:
    reply = await client.completions.create(model="mock", prompt="a", best_of=2, n=2, max_tokens=1)
    assert len(reply.choices) == 2


async def test_usage_of_a_stream(client: AsyncOpenAI) -> None:
    for cached in (0, 2):
        stream = await client.completions.create(
            model="mock", prompt="a b", max_tokens=3, stream=True, stream_options={"include_usage": True}
        )
        usage = [chunk async for chunk in stream][-1].usage
        assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (3, 3, 6)
        assert usage.prompt_tokens_details.cached_tokens == cached


@pytest.mark.parametrize("asked", [{}, {"add_special_tokens": None}, {"add_special_tokens": True}])
async def test_the_start_token_is_added(client: AsyncOpenAI, engine: EchoEngine, asked: dict) -> None:
    await client.completions.create(model="mock", prompt="one", max_tokens=1, extra_body=asked)
    assert engine.prompts[-1] == [0, *engine.tokenizer.encode("one", add_special_tokens=False)]


async def test_the_start_token_is_left_out_where_asked(client: AsyncOpenAI, engine: EchoEngine) -> None:
    await client.completions.create(model="mock", prompt="one", max_tokens=1, extra_body={"add_special_tokens": False})
    assert engine.prompts[-1] == engine.tokenizer.encode("one", add_special_tokens=False)
