"""A real model that is too small to know how: its answers have their form, and its calls are valid, all the same."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import httpx2
import jsonschema
import openai
import pytest

from bench.drive import ModelEngines
from kvloom.engine.async_engine import AsyncEngine
from kvloom.engine.params import SamplingParams
from kvloom.engine.structured import StructuredOutputsParams
from kvloom.server.app import create_app
from structured_cases import SCHEMAS, UNBOUNDED
from tiny import drain

PARAMETERS = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 20},
        "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
    },
    "required": ["city", "unit"],
}
TOOL = {"type": "function", "function": {"name": "get_weather", "description": "Weather.", "parameters": PARAMETERS}}
ASK = [{"role": "user", "content": "What is the weather in Paris, in celsius?"}]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_schemas_of_every_shape(smollm2: ModelEngines, temperature: float) -> None:
    engine = smollm2.make("256MiB")
    prompt = smollm2.encode("A record in JSON:\n")
    for name, schema in SCHEMAS.items():
        form = StructuredOutputsParams(json=schema)
        asked = SamplingParams(temperature=temperature, seed=1, max_tokens=300, structured_outputs=form)
        engine.submit(name, prompt, asked)
    for name, done in drain(engine, list(SCHEMAS)).items():
        if done.reasons[0] == "stop":
            jsonschema.Draft202012Validator(SCHEMAS[name]).validate(json.loads(done.text[0]))
        else:
            assert name in UNBOUNDED, f"{name} does not end: {done.text[0]!r}"


@pytest.fixture
async def client(smollm2: ModelEngines) -> AsyncIterator[openai.AsyncOpenAI]:
    engine = AsyncEngine.over(smollm2.make("64MiB"), smollm2.loaded.tokenizer, "smollm2")
    transport = httpx2.ASGITransport(create_app(engine))
    async with httpx2.AsyncClient(transport=transport, base_url="http://kvloom") as http:
        yield openai.AsyncOpenAI(api_key="none", base_url="http://kvloom/v1", http_client=http, max_retries=0)
    engine.close()


async def test_a_required_call_is_valid(client: openai.AsyncOpenAI) -> None:
    reply = await client.chat.completions.create(
        model="smollm2", messages=ASK, tools=[TOOL], tool_choice="required", parallel_tool_calls=False, temperature=0
    )
    (call,) = reply.choices[0].message.tool_calls
    arguments = json.loads(call.function.arguments)
    jsonschema.validate(arguments, PARAMETERS)
    assert arguments["city"].startswith("Paris")
    assert reply.choices[0].finish_reason == "tool_calls"
