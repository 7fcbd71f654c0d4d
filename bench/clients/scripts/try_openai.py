"""OpenAI's own library for Python."""

from __future__ import annotations

from typing import Any, Literal

from openai import BadRequestError, OpenAI
from pydantic import BaseModel
from trying import (
    ABOUT,
    KEY,
    MODEL,
    QUESTION,
    TOO_LONG,
    V1,
    WEATHER,
    fault_of,
    is_city,
    is_vector,
    is_weather,
    run,
    words,
)

CLIENT = OpenAI(base_url=V1, api_key=KEY, max_retries=0)
ASK: Any = [{"role": "user", "content": QUESTION}]
TOOL: Any = {"type": "function", "function": {"name": "get_weather", "parameters": WEATHER, "strict": True}}
NAMED: Any = {"type": "function", "function": {"name": "get_weather"}}


class City(BaseModel):
    name: Literal["Paris", "Rome"]
    people: int


def _chat(messages: Any = ASK, **more: Any) -> Any:
    return CLIENT.chat.completions.create(
        model=MODEL, messages=messages, **({"max_tokens": 24, "temperature": 0} | more)
    )


def chat() -> str:
    return words(_chat().choices[0].message.content)


def stream() -> str:
    chunks = list(_chat(stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert chunks[-1].usage.completion_tokens > 0
    return words(text)


def turns() -> str:
    said = _chat().choices[0].message
    return words(_chat([*ASK, said.model_dump(exclude_none=True), *ASK]).choices[0].message.content)


def tools() -> str:
    choice = _chat(tools=[TOOL], tool_choice="required", max_tokens=512).choices[0]
    assert choice.finish_reason == "tool_calls"
    return is_weather(choice.message.tool_calls[0].function.arguments)


def named_tool() -> str:
    (call,) = _chat(tools=[TOOL], tool_choice=NAMED, max_tokens=64).choices[0].message.tool_calls
    return is_weather(call.function.arguments)


def tool_stream() -> str:
    asked: Any = {"tools": [TOOL], "tool_choice": "required", "max_tokens": 512}
    with CLIENT.chat.completions.stream(model=MODEL, messages=ASK, **asked) as events:
        final = events.get_final_completion()
    return is_weather(final.choices[0].message.tool_calls[0].function.parsed_arguments)


def tool_result() -> str:
    said = _chat(tools=[TOOL], tool_choice=NAMED, max_tokens=64).choices[0].message
    result = {"role": "tool", "tool_call_id": said.tool_calls[0].id, "content": "It is sunny."}
    again = _chat([*ASK, said.model_dump(exclude_none=True), result], tools=[TOOL], tool_choice="none")
    return words(again.choices[0].message.content)


def schema() -> str:
    found = CLIENT.chat.completions.parse(model=MODEL, messages=ASK, response_format=City, max_tokens=64)
    return is_city(found.choices[0].message.parsed)


def json_object() -> str:
    choice = _chat(response_format={"type": "json_object"}, max_tokens=64).choices[0]
    assert choice.message.content.lstrip().startswith("{")
    return words(choice.message.content)


def completions() -> str:
    return words(CLIENT.completions.create(model=MODEL, prompt="Paris is", max_tokens=16).choices[0].text)


def embeddings() -> str:
    found = CLIENT.embeddings.create(model=MODEL, input=["one", "two"])
    assert len(found.data) == 2
    return is_vector(found.data[1].embedding)


def responses() -> str:
    first = CLIENT.responses.create(model=MODEL, input=QUESTION, max_output_tokens=24)
    events = CLIENT.responses.create(
        model=MODEL, input="And of Italy?", previous_response_id=first.id, max_output_tokens=24, stream=True
    )
    *_, last = events
    assert last.type in ("response.completed", "response.incomplete"), last.type
    parsed = CLIENT.responses.parse(model=MODEL, input=QUESTION, text_format=City, max_output_tokens=64)
    return f"{words(last.response.output_text)}; {is_city(parsed.output_parsed)}"


def logprobs() -> str:
    content = _chat(logprobs=True, top_logprobs=2).choices[0].logprobs.content
    assert all(each.logprob <= 0 and len(each.top_logprobs) == 2 for each in content)
    return f"{len(content)} tokens"


def cached_usage() -> str:
    asked: Any = [{"role": "user", "content": ABOUT}]
    _chat(asked, max_tokens=1)
    found = _chat(asked, max_tokens=1).usage
    assert found.prompt_tokens_details.cached_tokens > 64
    return f"{found.prompt_tokens_details.cached_tokens} of {found.prompt_tokens}"


def overflow() -> str:
    error = fault_of(BadRequestError, lambda: _chat([{"role": "user", "content": TOO_LONG}]))
    assert (error.code, error.param) == ("context_length_exceeded", "messages")
    return type(error).__name__


def n() -> str:
    choices = _chat(n=3, temperature=1.0).choices
    assert [choice.index for choice in choices] == [0, 1, 2]
    return f"{len(choices)} answers"


def stop() -> str:
    choice = _chat([{"role": "user", "content": "Count: 1, 2, 3"}], stop=["2"], max_tokens=64).choices[0]
    assert "2" not in choice.message.content
    return f"ended by {choice.finish_reason}"


def models() -> str:
    names = [model.id for model in CLIENT.models.list()]
    assert MODEL in names
    return ", ".join(names)


run(globals())
