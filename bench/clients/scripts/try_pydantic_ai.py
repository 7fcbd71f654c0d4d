"""Pydantic AI: its models for OpenAI's two APIs and for Anthropic's, and its agents."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput, ToolOutput
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.messages import ToolReturnPart
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider
from trying import ABOUT, KEY, MODEL, QUESTION, TOO_LONG, URL, V1, is_city, is_weather, raises, run, words
from trying import get_weather as weather

OPENAI = OpenAIProvider(base_url=V1, api_key=KEY)
CHAT = OpenAIChatModel(MODEL, provider=OPENAI)
SHORT: Any = {"max_tokens": 512, "temperature": 0.0}


class City(BaseModel):
    """A city."""

    name: Literal["Paris", "Rome"]
    people: int


class Weather(BaseModel):
    """Asks for the weather in a city."""

    city: Literal["Paris", "Rome"]


def _agent(model: Any = CHAT, **more: Any) -> Any:
    return Agent(model, model_settings=SHORT, **more)


def chat() -> str:
    return words(_agent(instructions="Be brief.").run_sync(QUESTION).output)


async def stream() -> str:
    async with _agent().run_stream(QUESTION) as found:
        return words("".join([text async for text in found.stream_text(delta=True)]))


def turns() -> str:
    first = _agent().run_sync(QUESTION)
    return words(_agent().run_sync("And of Italy?", message_history=first.all_messages()).output)


def tools() -> str:
    found = _agent(output_type=[ToolOutput(Weather, name="get_weather"), ToolOutput(City, name="tell")])
    return f"{type(found.run_sync(QUESTION).output).__name__} was called"


def named_tool() -> str:
    found = _agent(output_type=ToolOutput(Weather, name="get_weather")).run_sync(QUESTION).output
    return is_weather({"city": found.city})


async def tool_stream() -> str:
    async with _agent(output_type=City).run_stream(QUESTION) as found:
        return is_city([part async for part in found.stream_output()][-1])


def agent() -> str:
    """Its calls end with the output's tool: a small model that must call something gets there, or is told to."""
    made = _agent(output_type=ToolOutput(City, name="tell"), retries=4)

    @made.tool_plain
    def get_weather(city: Literal["Paris", "Rome"]) -> str:
        """Tell the weather in a city."""
        return weather(city)

    found = made.run_sync(QUESTION)
    results = [part.tool_name for message in found.all_messages() for part in message.parts if _is_result(part)]
    return f"{is_city(found.output)} after {', '.join(results)}"


def _is_result(part: object) -> bool:
    return isinstance(part, ToolReturnPart)


def schema() -> str:
    return is_city(_agent(output_type=NativeOutput(City)).run_sync(QUESTION).output)


def responses() -> str:
    model = OpenAIResponsesModel(MODEL, provider=OPENAI)
    found = _agent(model, output_type=City).run_sync(QUESTION).output
    return f"{words(_agent(model).run_sync(QUESTION).output)}; {is_city(found)}"


def messages() -> str:
    model = AnthropicModel(MODEL, provider=AnthropicProvider(base_url=URL, api_key=KEY))
    found = _agent(model, output_type=City).run_sync(QUESTION).output
    return f"{words(_agent(model).run_sync(QUESTION).output)}; {is_city(found)}"


def cached_usage() -> str:
    _agent().run_sync(ABOUT)
    found = _agent().run_sync(ABOUT).usage
    usage = found() if callable(found) else found
    assert usage.cache_read_tokens > 64
    return f"{usage.cache_read_tokens} of {usage.input_tokens}"


def overflow() -> str:
    return raises(ModelHTTPError, lambda: _agent().run_sync(TOO_LONG), "400", "maximum context length is")


def stop() -> str:
    found = _agent().run_sync("Count: 1, 2, 3", model_settings=SHORT | {"stop_sequences": ["2"]}).output
    assert "2" not in found
    return "ended by it"


run(globals())
