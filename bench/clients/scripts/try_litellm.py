"""LiteLLM: by its providers for OpenAI's and for Anthropic's APIs, and for vLLM."""

from __future__ import annotations

from typing import Any, Literal

import litellm
from pydantic import BaseModel
from trying import (
    ABOUT,
    CITY,
    KEY,
    MODEL,
    QUESTION,
    TOO_LONG,
    URL,
    V1,
    WEATHER,
    is_city,
    is_vector,
    is_weather,
    raises,
    run,
    words,
)

ASK: Any = [{"role": "user", "content": QUESTION}]
TOOL: Any = {"type": "function", "function": {"name": "get_weather", "parameters": WEATHER}}
NAMED: Any = {"type": "function", "function": {"name": "get_weather"}}
PLACE: Any = {"api_base": V1, "api_key": KEY, "num_retries": 0}


class City(BaseModel):
    name: Literal["Paris", "Rome"]
    people: int


def _chat(messages: Any = ASK, **more: Any) -> Any:
    return litellm.completion(
        f"openai/{MODEL}", messages=messages, **PLACE, **({"max_tokens": 512, "temperature": 0.0} | more)
    )


def chat() -> str:
    vllm = litellm.completion(f"hosted_vllm/{MODEL}", messages=ASK, max_tokens=16, **PLACE)
    return f"{words(_chat().choices[0].message.content)}; as vLLM {words(vllm.choices[0].message.content)}"


def stream() -> str:
    return words("".join(chunk.choices[0].delta.content or "" for chunk in _chat(stream=True)))


def turns() -> str:
    said = _chat().choices[0].message
    return words(_chat([*ASK, said.model_dump(), *ASK]).choices[0].message.content)


def tools() -> str:
    (call, *_) = _chat(tools=[TOOL], tool_choice="required").choices[0].message.tool_calls
    return is_weather(call.function.arguments)


def named_tool() -> str:
    (call,) = _chat(tools=[TOOL], tool_choice=NAMED).choices[0].message.tool_calls
    return is_weather(call.function.arguments)


def tool_stream() -> str:
    chunks = list(_chat(tools=[TOOL], tool_choice="required", stream=True))
    whole = litellm.stream_chunk_builder(chunks)
    return is_weather(whole.choices[0].message.tool_calls[0].function.arguments)


def tool_result() -> str:
    said = _chat(tools=[TOOL], tool_choice=NAMED).choices[0].message
    result = {"role": "tool", "tool_call_id": said.tool_calls[0].id, "content": "It is sunny."}
    return words(_chat([*ASK, said, result], tools=[TOOL], tool_choice="none").choices[0].message.content)


def schema() -> str:
    said = _chat(response_format=City).choices[0].message.content
    asked = {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY}}
    again = _chat(response_format=asked).choices[0].message.content
    return f"{is_city(City.model_validate_json(said))}; {is_city(City.model_validate_json(again))}"


def json_object() -> str:
    said = _chat(response_format={"type": "json_object"}).choices[0].message.content
    assert said.lstrip().startswith("{")
    return words(said)


def completions() -> str:
    found = litellm.text_completion(prompt="Paris is", model=f"text-completion-openai/{MODEL}", max_tokens=16, **PLACE)
    return words(found.choices[0].text)


def embeddings() -> str:
    found = litellm.embedding(f"openai/{MODEL}", input=["one", "two"], **PLACE)
    return is_vector(found.data[1]["embedding"])


def responses() -> str:
    found = litellm.responses(input=QUESTION, model=f"openai/{MODEL}", max_output_tokens=24, **PLACE)
    return words(found.output[0].content[0].text)


def messages() -> str:
    place = PLACE | {"api_base": URL}
    found = litellm.completion(f"anthropic/{MODEL}", messages=ASK, max_tokens=24, **place)
    called = litellm.completion(
        f"anthropic/{MODEL}", messages=ASK, max_tokens=512, tools=[TOOL], tool_choice="required", **place
    )
    (call, *_) = called.choices[0].message.tool_calls
    return f"{words(found.choices[0].message.content)}; {is_weather(call.function.arguments)}"


def logprobs() -> str:
    content = _chat(logprobs=True, top_logprobs=2).choices[0].logprobs.content
    return f"{len(content)} tokens"


def cached_usage() -> str:
    asked = [{"role": "user", "content": ABOUT}]
    _chat(asked, max_tokens=1)
    found = _chat(asked, max_tokens=1).usage
    assert found.prompt_tokens_details.cached_tokens > 64
    return f"{found.prompt_tokens_details.cached_tokens} of {found.prompt_tokens}"


def overflow() -> str:
    asked = [{"role": "user", "content": TOO_LONG}]
    return raises(litellm.ContextWindowExceededError, lambda: _chat(asked))


def n() -> str:
    assert len(_chat(n=3, temperature=1.0).choices) == 3
    return "3 answers"


def stop() -> str:
    choice = _chat([{"role": "user", "content": "Count: 1, 2, 3"}], stop=["2"]).choices[0]
    assert "2" not in choice.message.content
    return f"ended by {choice.finish_reason}"


run(globals())
