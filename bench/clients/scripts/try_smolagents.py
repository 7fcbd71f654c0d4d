"""smolagents: its model for servers like OpenAI's, and both of its agents."""

from __future__ import annotations

from typing import Any

from openai import BadRequestError
from smolagents import CodeAgent, OpenAIModel, ToolCallingAgent, tool
from trying import KEY, MODEL, QUESTION, TOO_LONG, V1, is_weather, raises, run, words
from trying import get_weather as weather

CHAT = OpenAIModel(model_id=MODEL, api_base=V1, api_key=KEY, max_tokens=512, temperature=0.0)
ASK: Any = [{"role": "user", "content": [{"type": "text", "text": QUESTION}]}]


@tool
def get_weather(city: str) -> str:
    """Tell the weather in a city.

    Args:
        city: Paris or Rome.
    """
    return weather(city)


get_weather.inputs["city"]["enum"] = ["Paris", "Rome"]


def chat() -> str:
    return words(CHAT.generate(ASK).content)


def stream() -> str:
    return words("".join(delta.content or "" for delta in CHAT.generate_stream(ASK)))


def tools() -> str:
    (call, *_) = CHAT.generate(ASK, tools_to_call_from=[get_weather]).tool_calls
    return is_weather(call.function.arguments)


def agent() -> str:
    """A small model calls tools until its steps are over; then it is asked for an answer."""
    calling = ToolCallingAgent(tools=[get_weather], model=CHAT, max_steps=2, verbosity_level=0)
    writing = CodeAgent(tools=[], model=CHAT, max_steps=1, verbosity_level=0, use_structured_outputs_internally=True)
    return f"{words(str(calling.run(QUESTION)))}; in code, {words(str(writing.run(QUESTION)))}"


def overflow() -> str:
    ask: Any = [{"role": "user", "content": [{"type": "text", "text": TOO_LONG}]}]
    return raises(BadRequestError, lambda: CHAT.generate(ask), "maximum context length is")


def stop() -> str:
    ask: Any = [{"role": "user", "content": [{"type": "text", "text": "Count: 1, 2, 3"}]}]
    found = CHAT.generate(ask, stop_sequences=["2"]).content
    assert "2" not in found
    return "ended by it"


run(globals())
