"""Anthropic's own library for Python."""

from __future__ import annotations

from typing import Any, Literal

from anthropic import Anthropic, BadRequestError
from pydantic import BaseModel
from trying import ABOUT, KEY, MODEL, QUESTION, TOO_LONG, URL, WEATHER, is_city, is_weather, raises, run, words

CLIENT = Anthropic(base_url=URL, api_key=KEY, max_retries=0)
ASK: Any = [{"role": "user", "content": QUESTION}]
TOOL: Any = {"name": "get_weather", "input_schema": WEATHER}
ANY: Any = {"type": "any"}


class City(BaseModel):
    name: Literal["Paris", "Rome"]
    people: int


def _chat(messages: Any = ASK, **more: Any) -> Any:
    return CLIENT.messages.create(
        model=MODEL, messages=messages, **({"max_tokens": 24, "extra_body": {"temperature": 0}} | more)
    )


def messages() -> str:
    return words(_chat(system="Be brief.").content[0].text)


def stream() -> str:
    with CLIENT.messages.stream(model=MODEL, messages=ASK, max_tokens=24) as events:
        text = "".join(events.text_stream)
        assert events.get_final_message().usage.output_tokens > 0
    return words(text)


def turns() -> str:
    return words(_chat([*ASK, {"role": "assistant", "content": _chat().content}, *ASK]).content[0].text)


def tools() -> str:
    said = _chat(tools=[TOOL], tool_choice=ANY, max_tokens=512)
    assert said.stop_reason == "tool_use"
    return is_weather(said.content[0].input)


def named_tool() -> str:
    (block,) = _chat(tools=[TOOL], tool_choice={"type": "tool", "name": "get_weather"}, max_tokens=64).content
    return is_weather(block.input)


def tool_stream() -> str:
    asked: Any = {"tools": [TOOL], "tool_choice": ANY, "max_tokens": 512}
    with CLIENT.messages.stream(model=MODEL, messages=ASK, **asked) as events:
        return is_weather(events.get_final_message().content[0].input)


def tool_result() -> str:
    said = _chat(tools=[TOOL], tool_choice=ANY, max_tokens=512)
    result = {"type": "tool_result", "tool_use_id": said.content[0].id, "content": "It is sunny."}
    asked = [*ASK, {"role": "assistant", "content": said.content[:1]}, {"role": "user", "content": [result]}]
    return words(_chat(asked, tools=[TOOL], tool_choice={"type": "none"}).content[0].text)


def schema() -> str:
    found = CLIENT.messages.parse(model=MODEL, messages=ASK, output_format=City, max_tokens=64)
    return is_city(found.parsed_output)


def cached_usage() -> str:
    block = {"type": "text", "text": ABOUT, "cache_control": {"type": "ephemeral"}}
    asked = [{"role": "user", "content": [block]}]
    written = _chat(asked, max_tokens=1).usage.cache_creation_input_tokens
    found = _chat(asked, max_tokens=1).usage
    assert written > 64
    assert found.cache_read_input_tokens > 64
    return f"{written} written, {found.cache_read_input_tokens} read"


def overflow() -> str:
    return raises(
        BadRequestError,
        lambda: _chat([{"role": "user", "content": TOO_LONG}]),
        "invalid_request_error",
        "maximum context length is",
    )


def stop() -> str:
    said = _chat([{"role": "user", "content": "Count: 1, 2, 3"}], stop_sequences=["2"], max_tokens=64)
    assert "2" not in said.content[0].text
    return f"ended by {said.stop_reason}"


def models() -> str:
    names = [model.id for model in CLIENT.models.list()]
    assert MODEL in names
    return ", ".join(names)


def count_tokens() -> str:
    found = CLIENT.messages.count_tokens(model=MODEL, messages=ASK)
    usage = _chat(max_tokens=1).usage
    assert found.input_tokens == usage.input_tokens + usage.cache_read_input_tokens + usage.cache_creation_input_tokens
    return f"{found.input_tokens} tokens"


run(globals())
