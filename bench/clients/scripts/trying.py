"""For scripts that run in a client's own environment, with the standard library alone: each has a function for every
feature that it tries, which returns what it saw, or raises.

    python try_CLIENT.py URL MODEL TOKENIZER    prints {"feature": ..., "ok": ..., "detail": ...} for each, line by line
"""

from __future__ import annotations

import asyncio
import inspect
import json
import sys
import uuid
from collections.abc import Callable, Mapping
from typing import Any

URL, MODEL, TOKENIZER = sys.argv[1:4]
V1 = f"{URL}/v1"
KEY = "none"

QUESTION = "What is the capital of France? Answer in one word."
ABOUT = f"{uuid.uuid4()}: " + "The cache keeps what was computed for a prompt, to be found by the next one. " * 12
"""Long enough to be found in the cache, and not there yet."""
TOO_LONG = "word " * 20_000
CITIES = ["Paris", "Rome"]

WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": CITIES}},
    "required": ["city"],
    "additionalProperties": False,
}
"""What the tool ``get_weather`` takes."""

CITY = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "enum": CITIES},
        "people": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["name", "people"],
    "additionalProperties": False,
}


def get_weather(city: str) -> str:
    assert city in CITIES, f"there is no weather for {city!r}"
    return f"It is sunny in {city}, 21 degrees."


def run(features: Mapping[str, Any]) -> None:
    """Of a script's names, try the functions that it defines itself and that have no parameters, in order."""
    script = features["__name__"]
    for name, value in list(features.items()):
        if inspect.isfunction(value) and value.__module__ == script and not name.startswith("_"):
            _try(name, value)


def _try(name: str, feature: Callable[[], Any]) -> None:
    try:
        seen = asyncio.run(feature()) if inspect.iscoroutinefunction(feature) else feature()
        ok, detail = True, str(seen)
    except Exception as fault:  # whatever a client raises is what its user would see
        ok, detail = False, f"{type(fault).__name__}: {fault}"
    print("\n" + json.dumps({"feature": name, "ok": ok, "detail": detail}), flush=True)


def words(text: str | None) -> str:
    """What an answer said, which must be something."""
    assert text is not None, "there is no text"
    assert text.strip(), "the text is empty"
    return f"said {text.strip()[:40]!r}"


def is_weather(arguments: str | Mapping[str, Any]) -> str:
    """What a call was given, which must fit the tool's schema."""
    given = json.loads(arguments) if isinstance(arguments, str) else dict(arguments)
    assert set(given) == {"city"}, f"the arguments are {given}"
    assert given["city"] in CITIES, f"the arguments are {given}"
    return f"get_weather({given['city']})"


def is_city(value: Any) -> str:
    """What an object held, a mapping or an object with attributes, which must fit the schema."""
    given = dict(value) if isinstance(value, Mapping) else {name: getattr(value, name) for name in ("name", "people")}
    assert given["name"] in CITIES, f"the answer is {given}"
    assert isinstance(given["people"], int), f"the answer is {given}"
    return f"{given['name']}, {given['people']}"


def is_vector(values: Any) -> str:
    assert len(values) > 100, f"{len(values)} numbers"
    assert any(values), "all numbers are 0"
    return f"{len(values)} numbers"


def raises(kind: type[BaseException] | tuple[type[BaseException], ...], ask: Callable[[], Any], *said: str) -> str:
    """``ask`` fails as the client's own class of errors says, with these words."""
    error = fault_of(kind, ask)
    for text in said:
        assert text in str(error), f"{type(error).__name__} says {str(error)[:120]}"
    return type(error).__name__


def fault_of(kind: type[BaseException] | tuple[type[BaseException], ...], ask: Callable[[], Any]) -> Any:
    """The error of that kind that ``ask`` fails with."""
    try:
        answer = ask()
    except kind as error:
        return error
    raise AssertionError(f"it was answered: {str(answer)[:80]}")
