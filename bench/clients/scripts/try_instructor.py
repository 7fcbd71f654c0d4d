"""Instructor: objects by tools, by schema and by JSON alone, streamed in parts too."""

from __future__ import annotations

from typing import Any, Literal

import instructor
from instructor import Mode
from openai import OpenAI
from pydantic import BaseModel
from trying import KEY, MODEL, QUESTION, TOO_LONG, V1, is_city, raises, run

ASK: Any = {"model": MODEL, "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 256, "temperature": 0}


class City(BaseModel):
    """A city."""

    name: Literal["Paris", "Rome"]
    people: int


def _client(mode: Mode) -> Any:
    return instructor.from_openai(OpenAI(base_url=V1, api_key=KEY, max_retries=0), mode=mode)


def tools() -> str:
    return is_city(_client(Mode.TOOLS).create(response_model=City, max_retries=0, **ASK))


def tool_stream() -> str:
    *_, last = _client(Mode.TOOLS).create_partial(response_model=City, max_retries=0, **ASK)
    return is_city(last)


def schema() -> str:
    return is_city(_client(Mode.JSON_SCHEMA).create(response_model=City, max_retries=0, **ASK))


def overflow() -> str:
    asked = ASK | {"messages": [{"role": "user", "content": TOO_LONG}]}
    ask = lambda: _client(Mode.TOOLS).create(response_model=City, max_retries=0, **asked)  # noqa: E731
    return raises(Exception, ask, "maximum context length is")


run(globals())
