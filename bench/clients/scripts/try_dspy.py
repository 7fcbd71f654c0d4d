"""DSPy: its model and its adapter for JSON.

Its agents are not tried: DSPy asks for a schema only where it knows the model, and a small one keeps to none by itself.
"""

from __future__ import annotations

from typing import Any, Literal

import dspy
from pydantic import BaseModel
from trying import CITY, KEY, MODEL, QUESTION, TOO_LONG, V1, is_city, is_vector, raises, run, words


def _model(**more: Any) -> dspy.LM:
    asked: Any = {"max_tokens": 512, "temperature": 0.0, "cache": False, "num_retries": 0}
    return dspy.LM(f"openai/{MODEL}", api_base=V1, api_key=KEY, **(asked | more))


class City(BaseModel):
    name: Literal["Paris", "Rome"]
    people: int


class Tell(dspy.Signature):
    """Tell of a city."""

    question: str = dspy.InputField()
    city: City = dspy.OutputField()


def chat() -> str:
    return words(_model()(QUESTION)[0])


def turns() -> str:
    ask = {"role": "user", "content": QUESTION}
    said = {"role": "assistant", "content": _model()(messages=[ask])[0]}
    return words(_model()(messages=[ask, said, ask])[0])


def schema() -> str:
    form = {"type": "object", "properties": {"city": CITY}, "required": ["city"], "additionalProperties": False}
    asked = {"type": "json_schema", "json_schema": {"name": "tell", "schema": form}}
    with dspy.context(lm=_model(response_format=asked), adapter=dspy.JSONAdapter()):
        return is_city(dspy.Predict(Tell)(question=QUESTION).city)


def embeddings() -> str:
    made = dspy.Embedder(f"openai/{MODEL}", api_base=V1, api_key=KEY, caching=False)
    return is_vector(made(["one", "two"])[1])


def n() -> str:
    assert len(_model(n=3, temperature=1.0)(QUESTION)) == 3
    return "3 answers"


def overflow() -> str:
    return raises(dspy.ContextWindowExceededError, lambda: _model()(TOO_LONG))


def stop() -> str:
    found = _model(stop=["2"])("Count: 1, 2, 3")[0]
    assert "2" not in found
    return "ended by it"


run(globals())
