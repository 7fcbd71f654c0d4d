"""LangChain: its chat models and embeddings for OpenAI and for Anthropic, and its agents."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Literal

from langchain.agents import create_agent
from langchain.agents.middleware import wrap_model_call
from langchain_anthropic import ChatAnthropic
from langchain_core.exceptions import ContextOverflowError
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings
from openai import LengthFinishReasonError
from pydantic import BaseModel
from trying import ABOUT, KEY, MODEL, QUESTION, TOO_LONG, URL, V1, is_city, is_vector, is_weather, raises, run, words
from trying import get_weather as weather

CHAT = ChatOpenAI(base_url=V1, api_key=KEY, model=MODEL, max_tokens=512, max_retries=0, temperature=0)


class City(BaseModel):
    """A city."""

    name: Literal["Paris", "Rome"]
    people: int


@tool
def get_weather(city: Literal["Paris", "Rome"]) -> str:
    """Tell the weather in a city."""
    return weather(city)


@wrap_model_call
def one_call(request: Any, handler: Callable[[Any], Any]) -> Any:
    """A call first, then an answer: a small model does not choose by itself."""
    done = any(isinstance(message, ToolMessage) for message in request.messages)
    return handler(request.override(tool_choice="none" if done else "any"))


def chat() -> str:
    return words(CHAT.invoke(QUESTION).content)


def stream() -> str:
    return words("".join(chunk.content for chunk in CHAT.stream(QUESTION)))


def turns() -> str:
    first = [HumanMessage(QUESTION)]
    return words(CHAT.invoke([*first, CHAT.invoke(first), HumanMessage("And of Italy?")]).content)


def tools() -> str:
    (call, *_) = CHAT.bind_tools([get_weather], tool_choice="any").invoke(QUESTION).tool_calls
    return is_weather(call["args"])


def named_tool() -> str:
    (call,) = CHAT.bind_tools([get_weather], tool_choice="get_weather").invoke(QUESTION).tool_calls
    return is_weather(call["args"])


def tool_stream() -> str:
    first, *rest = CHAT.bind_tools([get_weather], tool_choice="get_weather").stream(QUESTION)
    whole = first
    for chunk in rest:
        whole += chunk
    return is_weather(whole.tool_calls[0]["args"])


def tool_result() -> str:
    asked: list[Any] = [HumanMessage("What is the weather in Rome?")]
    said = CHAT.bind_tools([get_weather], tool_choice="get_weather").invoke(asked)
    asked += [said, get_weather.invoke(said.tool_calls[0])]
    return words(CHAT.bind_tools([get_weather], tool_choice="none").invoke(asked).content)


def agent() -> str:
    found = create_agent(CHAT, [get_weather], middleware=[one_call]).invoke({"messages": [HumanMessage(QUESTION)]})
    kinds = [type(message).__name__ for message in found["messages"]]
    assert "ToolMessage" in kinds
    assert isinstance(found["messages"][-1], AIMessage)
    return ", ".join(kinds)


def schema() -> str:
    held = [CHAT.with_structured_output(City, method=method) for method in ("json_schema", "function_calling")]
    return "; ".join(is_city(each.invoke(QUESTION)) for each in held)


def json_object() -> str:
    """An answer that is cut is an error here, and a small model's objects do not always end: the first that does."""
    for seed in range(8):
        short = CHAT.bind(response_format={"type": "json_object"}, seed=seed, temperature=1.0, max_tokens=128)
        with suppress(LengthFinishReasonError):
            found = short.invoke(QUESTION)
            assert found.content.lstrip().startswith("{")
            return words(found.content)
    raise AssertionError("none of eight objects ended")


def completions() -> str:
    return words(OpenAI(base_url=V1, api_key=KEY, model=MODEL, max_tokens=16, max_retries=0).invoke("Paris is"))


def embeddings() -> str:
    made = OpenAIEmbeddings(base_url=V1, api_key=KEY, model=MODEL, check_embedding_ctx_length=False)
    return is_vector(made.embed_documents(["one", "two"])[1])


def responses() -> str:
    made = ChatOpenAI(base_url=V1, api_key=KEY, model=MODEL, max_tokens=24, use_responses_api=True)
    return words(made.invoke(QUESTION).text)


def messages() -> str:
    made = ChatAnthropic(base_url=URL, api_key=KEY, model=MODEL, max_tokens=512)
    (call, *_) = made.bind_tools([get_weather], tool_choice="any").invoke(QUESTION).tool_calls
    return f"{words(made.invoke(QUESTION).text)}; {is_weather(call['args'])}"


def logprobs() -> str:
    found = CHAT.bind(logprobs=True).invoke(QUESTION).response_metadata["logprobs"]["content"]
    return f"{len(found)} tokens"


def cached_usage() -> str:
    CHAT.invoke(ABOUT)
    found = CHAT.invoke(ABOUT).usage_metadata
    assert found["input_token_details"]["cache_read"] > 64
    return f"{found['input_token_details']['cache_read']} of {found['input_tokens']}"


def overflow() -> str:
    return raises(ContextOverflowError, lambda: CHAT.invoke(TOO_LONG))


def n() -> str:
    made = ChatOpenAI(base_url=V1, api_key=KEY, model=MODEL, max_tokens=16, n=3, temperature=1)
    (found,) = made.generate([[HumanMessage(QUESTION)]]).generations
    assert len(found) == 3
    return "3 answers"


def stop() -> str:
    found = CHAT.invoke("Count: 1, 2, 3", stop=["2"])
    assert "2" not in found.content
    return f"ended by {found.response_metadata['finish_reason']}"


run(globals())
