"""Inspect: its provider for servers like OpenAI's, its agents, and a task over samples that are made here."""

from __future__ import annotations

import json
from typing import Any

from inspect_ai import Task, eval_async
from inspect_ai.dataset import Sample
from inspect_ai.model import ChatMessageUser, GenerateConfig, ResponseSchema, execute_tools, get_model
from inspect_ai.scorer import includes
from inspect_ai.solver import generate
from inspect_ai.tool import ToolFunction, tool
from inspect_ai.util import JSONSchema
from trying import ABOUT, CITY, KEY, MODEL, QUESTION, TOO_LONG, V1, is_city, run, words
from trying import get_weather as weather

SHORT = GenerateConfig(max_tokens=512, temperature=0.0, max_retries=0)


def _model(**more: Any) -> Any:
    return get_model(f"openai-api/kvloom/{MODEL}", base_url=V1, api_key=KEY, config=SHORT, memoize=False, **more)


@tool
def get_weather() -> Any:
    async def execute(city: str) -> str:
        """Tell the weather in a city.

        Args:
            city: Paris or Rome.
        """
        return weather(city if city in ("Paris", "Rome") else "Rome")

    return execute


async def chat() -> str:
    return words((await _model().generate(QUESTION)).completion)


async def stream() -> str:
    return words((await _model(stream=True).generate(QUESTION)).completion)


async def turns() -> str:
    first = ChatMessageUser(content=QUESTION)
    said = (await _model().generate([first])).message
    return words((await _model().generate([first, said, first])).completion)


async def tools() -> str:
    found = await _model().generate(QUESTION, tools=[get_weather()], tool_choice="any")
    (call, *_) = found.message.tool_calls
    assert set(call.arguments) == {"city"}
    return f"{call.function}({call.arguments['city'][:20]})"


async def named_tool() -> str:
    found = await _model().generate(QUESTION, tools=[get_weather()], tool_choice=ToolFunction(name="get_weather"))
    (call, *_) = found.message.tool_calls
    return f"{call.function}({call.arguments['city'][:20]})"


async def tool_result() -> str:
    asked: list[Any] = [ChatMessageUser(content=QUESTION)]
    said = (await _model().generate(asked, tools=[get_weather()], tool_choice="any")).message
    results = await execute_tools([*asked, said], [get_weather()])
    return words((await _model().generate([*asked, said, *results.messages], tools=[get_weather()])).completion)


async def schema() -> str:
    form = ResponseSchema(name="city", json_schema=JSONSchema.model_validate(CITY))
    found = await _model().generate(QUESTION, config=GenerateConfig(response_schema=form))
    return is_city(json.loads(found.completion))


async def logprobs() -> str:
    found = await _model().generate(QUESTION, config=GenerateConfig(logprobs=True, top_logprobs=2))
    return f"{len(found.choices[0].logprobs.content)} tokens"


async def cached_usage() -> str:
    await _model().generate(ABOUT)
    usage = (await _model().generate(ABOUT)).usage
    assert usage.input_tokens_cache_read > 64
    return f"{usage.input_tokens_cache_read} of {usage.total_tokens}"


async def overflow() -> str:
    found = await _model().generate(TOO_LONG)
    assert found.stop_reason == "model_length", found.stop_reason
    return f"stop_reason {found.stop_reason}"


async def n() -> str:
    found = await _model().generate(QUESTION, config=GenerateConfig(num_choices=3, temperature=1.0))
    assert len(found.choices) == 3
    return "3 answers"


async def stop() -> str:
    found = await _model().generate("Count: 1, 2, 3", config=GenerateConfig(stop_seqs=["2"]))
    assert "2" not in found.completion
    return f"ended by {found.stop_reason}"


async def evaluation() -> str:
    samples = [Sample(input=f"Say {word}.", target=word) for word in ("one", "two", "three")]
    task = Task(dataset=samples, solver=generate(), scorer=includes())
    (log,) = await eval_async(task, model=_model(), log_dir="logs")
    assert log.status == "success", log.error
    assert len(log.samples) == 3
    return f"{len(log.samples)} samples, {log.results.scores[0].metrics['accuracy'].value:.2f}"


run(globals())
