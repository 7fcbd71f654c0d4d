"""OpenAI's Agents SDK: runs over both of OpenAI's APIs, with tools, hand-offs and sessions."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    SQLiteSession,
    function_tool,
    set_tracing_disabled,
)
from agents.items import HandoffOutputItem, ToolCallOutputItem
from openai import AsyncOpenAI, BadRequestError
from pydantic import BaseModel, Field
from trying import ABOUT, KEY, MODEL, QUESTION, TOO_LONG, V1, is_city, is_weather, raises, run, words
from trying import get_weather as weather

set_tracing_disabled(True)


class City(BaseModel):
    name: Literal["Paris", "Rome"]
    people: int = Field(ge=0, le=99)


@function_tool
def get_weather(city: Literal["Paris", "Rome"]) -> str:
    """Tell the weather in a city."""
    return weather(city)


def _agent(api: type = OpenAIChatCompletionsModel, tool_choice: str | None = None, **more: Any) -> Agent[Any]:
    model = api(model=MODEL, openai_client=AsyncOpenAI(base_url=V1, api_key=KEY, max_retries=0))
    settings = ModelSettings(max_tokens=1024, temperature=0.0, tool_choice=tool_choice)
    return Agent(name="helper", instructions="Be brief.", model=model, model_settings=settings, **more)


async def chat() -> str:
    return words((await Runner.run(_agent(), QUESTION)).final_output)


async def stream() -> str:
    found = Runner.run_streamed(_agent(), QUESTION)
    deltas = 0
    async for event in found.stream_events():
        deltas += event.type == "raw_response_event" and event.data.type == "response.output_text.delta"
    assert deltas > 1
    return f"{words(found.final_output)} in {deltas} pieces"


async def turns() -> str:
    session = SQLiteSession("one")
    await Runner.run(_agent(), QUESTION, session=session)
    found = await Runner.run(_agent(), "And of Italy?", session=session)
    assert len(await session.get_items()) == 4
    return words(found.final_output)


async def tools() -> str:
    made = _agent(tool_choice="required", tools=[get_weather], tool_use_behavior="stop_on_first_tool")
    return words((await Runner.run(made, QUESTION)).final_output)


async def named_tool() -> str:
    made = _agent(tool_choice="get_weather", tools=[get_weather], tool_use_behavior="stop_on_first_tool")
    return words((await Runner.run(made, QUESTION)).final_output)


async def tool_stream() -> str:
    made = _agent(tool_choice="required", tools=[get_weather], tool_use_behavior="stop_on_first_tool")
    found = Runner.run_streamed(made, QUESTION)
    async for event in found.stream_events():
        if event.type == "run_item_stream_event" and event.name == "tool_called":
            return is_weather(event.item.raw_item.arguments)
    raise AssertionError("no tool was called")


async def agent() -> str:
    found = await Runner.run(_agent(tool_choice="required", tools=[get_weather]), QUESTION)
    assert any(isinstance(item, ToolCallOutputItem) for item in found.new_items)
    other = _agent()
    handing = _agent(tool_choice="required", handoffs=[other])
    handed = await Runner.run(handing, QUESTION)
    assert any(isinstance(item, HandoffOutputItem) for item in handed.new_items)
    return f"{words(found.final_output)}; handed over, {words(handed.final_output)}"


async def schema() -> str:
    return is_city((await Runner.run(_agent(output_type=City), QUESTION)).final_output)


async def responses() -> str:
    """An answer that is cut is an error here: what is asked for ends."""
    api = OpenAIResponsesModel
    said = await Runner.run(_agent(api), QUESTION)
    held = await Runner.run(_agent(api, output_type=City), QUESTION)
    calling = _agent(api, "get_weather", tools=[get_weather], tool_use_behavior="stop_on_first_tool")
    found = await Runner.run(calling, QUESTION)
    assert any(isinstance(item, ToolCallOutputItem) for item in found.new_items)
    return f"{words(said.final_output)}; {is_city(held.final_output)}; {words(found.final_output)}"


async def cached_usage() -> str:
    await Runner.run(_agent(), ABOUT)
    usage = (await Runner.run(_agent(), ABOUT)).context_wrapper.usage
    assert usage.input_tokens_details.cached_tokens > 64
    return f"{usage.input_tokens_details.cached_tokens} of {usage.input_tokens}"


def overflow() -> str:
    ask = lambda: asyncio.run(Runner.run(_agent(), TOO_LONG))  # noqa: E731
    return raises(BadRequestError, ask, "maximum context length is")


run(globals())
