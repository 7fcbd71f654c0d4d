"""``budget_tokens`` and ``thinking_token_budget`` over HTTP, by an engine that reasons without end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI

import tiny
from kvloom.config import ServerConfig
from kvloom.engine.async_engine import AsyncEngine
from kvloom.server.app import create_app

ASK: Any = [{"role": "user", "content": "why"}]
COLD = {"temperature": 0.0}


class Thinking(tiny.CharTokenizer):
    """Its template opens the reasoning of every answer, unless it is told not to."""

    chat_template = "{% if enable_thinking %}<think>{% else %}<think></think>{% endif %}"

    def chat_prompt(
        self,
        messages: list[dict[str, Any]],
        add_generation_prompt: bool = True,
        chat_template_kwargs: dict[str, Any] | None = None,
        tools: Any = None,
        continue_final_message: bool = False,
    ) -> str:
        on = (chat_template_kwargs or {}).get("enable_thinking", True)
        return f"why? <think>{'' if on else '</think>'}"


@pytest.fixture
def engine() -> Any:
    found = AsyncEngine.over(tiny.make_engine(tokenizer=Thinking()), Thinking(), "tiny")
    yield found
    found.close()


async def served(engine: Any, **config: Any) -> httpx2.AsyncClient:
    transport = httpx2.ASGITransport(create_app(engine, ServerConfig(**config)))
    return httpx2.AsyncClient(transport=transport, base_url="http://kvloom")


@pytest.fixture
async def http(engine: Any) -> AsyncIterator[httpx2.AsyncClient]:
    async with await served(engine) as client:
        yield client


async def claude(http: httpx2.AsyncClient, thinking: dict[str, Any], **more: Any) -> Any:
    client = AsyncAnthropic(api_key="none", base_url="http://kvloom", http_client=http, max_retries=0)
    asked: Any = {"model": "tiny", "messages": ASK, "max_tokens": 60, "thinking": thinking, "extra_body": COLD}
    return await client.messages.create(**asked | more)


@pytest.mark.parametrize("tokens", [5, 20])
async def test_thinking_ends_after_its_budget_and_the_answer_follows(http: httpx2.AsyncClient, tokens: int) -> None:
    free = await claude(http, {"type": "adaptive"})
    assert [block.type for block in free.content] == ["thinking"]
    held = await claude(http, {"type": "enabled", "budget_tokens": tokens})
    thought, said = held.content
    assert (thought.type, said.type) == ("thinking", "text")
    assert 0 < len(thought.thinking) <= tokens
    assert free.content[0].thinking.startswith(thought.thinking)
    assert held.usage.output_tokens == 60
    assert tokens + len("</think>") + len(said.text) in range(60 - 3, 61), "but for white space between the parts"
    async with AsyncAnthropic(
        api_key="none", base_url="http://kvloom", http_client=http, max_retries=0
    ).messages.stream(
        model="tiny",
        messages=ASK,
        max_tokens=60,
        extra_body=COLD,
        thinking={"type": "enabled", "budget_tokens": tokens},
    ) as stream:
        streamed = await stream.get_final_message()
    assert [block.model_dump() for block in streamed.content] == [block.model_dump() for block in held.content]


async def test_it_counts_for_nothing_where_nothing_is_thought_or_told_apart(engine: Any) -> None:
    async with await served(engine) as http:
        off = await claude(http, {"type": "disabled"})
        assert [block.type for block in off.content] == ["text"]
    async with await served(engine, reasoning_parser="none") as http:
        plain = await claude(http, {"type": "enabled", "budget_tokens": 5})
        assert [block.type for block in plain.content] == ["text"]
        assert "</think>" not in plain.content[0].text


async def test_chat_takes_vllms_word(http: httpx2.AsyncClient) -> None:
    client = AsyncOpenAI(api_key="none", base_url="http://kvloom/v1", http_client=http, max_retries=0)

    async def ask(budget: int | None, **more: Any) -> Any:
        extra = {} if budget is None else {"thinking_token_budget": budget}
        asked: Any = {"model": "tiny", "messages": ASK, "max_tokens": 60, "temperature": 0.0, "extra_body": extra}
        return await client.chat.completions.create(**asked | more)

    free, unlimited, held = await ask(None), await ask(-1), await ask(7, n=2, temperature=1.0, seed=1)
    assert free.choices[0].message.content in ("", None)
    assert unlimited.choices[0].message == free.choices[0].message
    assert held.usage.completion_tokens_details.reasoning_tokens == 2 * (7 + len("</think>"))
    for choice in held.choices:
        assert 0 < len(choice.message.reasoning_content) <= 7
        assert choice.message.content
    schema: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"enum": [1]}}}
    formed = await ask(7, response_format=schema)
    assert formed.choices[0].message.content == "1", "an answer with a form has no reasoning"


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/messages", {"thinking": {"type": "enabled", "budget_tokens": 0}}, "thinking.budget_tokens"),
        ("/v1/messages", {"thinking": {"type": "enabled", "budget_tokens": "9"}}, "thinking.budget_tokens"),
        ("/v1/chat/completions", {"thinking_token_budget": -2}, "thinking_token_budget"),
        ("/v1/chat/completions", {"thinking_budget_tokens": 5}, "thinking_budget_tokens"),
        ("/v1/completions", {"thinking_token_budget": 5}, "thinking_token_budget"),
    ],
)
async def test_what_may_not_be(http: httpx2.AsyncClient, path: str, body: dict[str, Any], param: str) -> None:
    ask = {"prompt": "a"} if path == "/v1/completions" else {"messages": ASK}
    reply = await http.post(path, json={"model": "tiny", "max_tokens": 2} | ask | body)
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert param in (error.get("param") or "") + error["message"]
