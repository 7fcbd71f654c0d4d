"""Anthropic's ``context_management`` through its official client: what is cleared, when, and what the reply says."""

from __future__ import annotations

from typing import Any

import anthropic
import httpx2
import pytest
from anthropic import AsyncAnthropic

from kvloom.server.dialect.anthropic.clearing import PLACEHOLDER, cleared
from kvloom.server.dialect.anthropic.management import ClearThinking, ClearToolUses
from kvloom.server.dialect.anthropic.schemas import MessagesRequest

from .conftest import Engines
from .echo_engine import EchoEngine
from .test_anthropic import sdk

LONG = " ".join(["result"] * 30)


def use(number: int, name: str = "read") -> list[Any]:
    block = {"type": "tool_use", "id": f"t{number}", "name": name, "input": {"path": f"f{number}"}}
    result = {"type": "tool_result", "tool_use_id": f"t{number}", "content": f"{LONG} {number}"}
    return [{"role": "assistant", "content": [block]}, {"role": "user", "content": [result]}]


def history(count: int) -> list[Any]:
    turns: list[Any] = [{"role": "user", "content": "go"}]
    for number in range(count):
        turns += use(number, "write" if number == 1 else "read")
    return turns


def clear(**given: Any) -> dict[str, Any]:
    started = {"trigger": {"type": "tool_uses", "value": 0}, "keep": {"type": "tool_uses", "value": 1}}
    return {"edits": [{"type": "clear_tool_uses_20250919", **started, **given}]}


@pytest.fixture
def engine(new_engine: Engines) -> EchoEngine:
    return new_engine(max_model_len=600)


@pytest.fixture
async def claude(http: httpx2.AsyncClient) -> AsyncAnthropic:
    return sdk(http)


async def asked(claude: AsyncAnthropic, management: Any, turns: Any = None) -> Any:
    return await claude.beta.messages.create(
        model="mock",
        messages=history(3) if turns is None else turns,
        max_tokens=1,
        context_management=management,
        betas=["context-management-2025-06-27"],
    )


def prompt(engine: EchoEngine) -> str:
    return engine.tokenizer.decode(engine.prompts[-1])


async def test_old_results_are_cleared(claude: AsyncAnthropic, engine: EchoEngine) -> None:
    plain = await asked(claude, None)
    whole, tokens = prompt(engine), plain.usage.input_tokens + plain.usage.cache_read_input_tokens
    assert plain.context_management is None
    assert f"{LONG} 0" in whole
    reply = await asked(claude, clear())
    text = prompt(engine)
    assert f"{LONG} 0" not in text
    assert f"{LONG} 1" not in text
    assert f"{LONG} 2" in text
    assert text.count(PLACEHOLDER) == 2
    (edit,) = reply.context_management.applied_edits
    assert (edit.type, edit.cleared_tool_uses) == ("clear_tool_uses_20250919", 2)
    left = reply.usage.input_tokens + reply.usage.cache_read_input_tokens
    assert edit.cleared_input_tokens == tokens - left > 50


async def test_a_stream_says_the_same(claude: AsyncAnthropic) -> None:
    whole = await asked(claude, clear())
    body = {"model": "mock", "messages": history(3), "max_tokens": 1, "betas": []}
    async with claude.beta.messages.stream(**body, context_management=clear()) as stream:
        events = [event async for event in stream]
    (delta,) = [event for event in events if event.type == "message_delta"]
    assert delta.context_management == whole.context_management


@pytest.mark.parametrize(
    ("given", "count"),
    [
        ({"keep": {"type": "tool_uses", "value": 0}}, 3),
        ({"keep": {"type": "tool_uses", "value": 5}}, 0),
        ({"keep": None}, 0),
        ({"exclude_tools": ["read"]}, 1),
        ({"exclude_tools": ["read", "write"]}, 0),
        ({"trigger": {"type": "tool_uses", "value": 3}}, 0),
        ({"trigger": {"type": "tool_uses", "value": 2}}, 2),
        ({"trigger": {"type": "input_tokens", "value": 20}}, 2),
        ({"trigger": {"type": "input_tokens", "value": 2000}}, 0),
        ({"trigger": None}, 0),
        ({"clear_at_least": {"type": "input_tokens", "value": 40}}, 2),
        ({"clear_at_least": {"type": "input_tokens", "value": 400}}, 0),
    ],
)
async def test_when_and_how_much(claude: AsyncAnthropic, engine: EchoEngine, given: Any, count: int) -> None:
    reply = await asked(claude, clear(**given))
    applied = reply.context_management.applied_edits
    assert [edit.cleared_tool_uses for edit in applied] == ([count] if count else [])
    assert prompt(engine).count(PLACEHOLDER) == count


@pytest.mark.parametrize(("inputs", "left"), [(None, 3), (False, 3), (True, 1), (["write"], 2), (["other"], 3)])
def test_inputs_are_cleared_when_asked_for(inputs: Any, left: int) -> None:
    body = MessagesRequest.model_validate(
        {"model": "m", "messages": history(3), "max_tokens": 1, "context_management": clear(clear_tool_inputs=inputs)}
    )
    (edit,) = body.context_management.edits
    turns, count = cleared(edit, body.messages, 100)
    calls = [block for turn in turns for block in turn.content if getattr(block, "type", "") == "tool_use"]
    assert count == 2
    assert [bool(call.input) for call in calls].count(True) == left
    assert [bool(call.input) for turn in body.messages for call in turn.content if hasattr(call, "input")] == [True] * 3


def test_thinking_of_old_turns() -> None:
    said = [
        {"role": "assistant", "content": [{"type": "thinking", "thinking": f"hm {n}"}, {"type": "text", "text": "yes"}]}
        for n in range(3)
    ]
    asked = [{"role": "user", "content": "and?"}] * 3
    turns = [turn for pair in zip(asked, said, strict=True) for turn in pair]
    body = MessagesRequest.model_validate({"model": "m", "messages": turns, "max_tokens": 1})

    def left(keep: Any) -> list[str]:
        edit = ClearThinking.model_validate({"type": "clear_thinking_20251015", "keep": keep})
        after, count = cleared(edit, body.messages, 100)
        found = [block.thinking for turn in after for block in turn.content if hasattr(block, "thinking")]
        assert count == 3 - len(found)
        return found

    assert left(None) == left({"type": "thinking_turns", "value": 1}) == ["hm 2"]
    assert left({"type": "thinking_turns", "value": 2}) == ["hm 1", "hm 2"]
    assert left("all") == left({"type": "all"}) == ["hm 0", "hm 1", "hm 2"]


def test_defaults_are_those_that_are_documented() -> None:
    edit = ClearToolUses.model_validate({"type": "clear_tool_uses_20250919"})
    assert (edit.kept, edit.triggered(100_000, 10**6), edit.triggered(100_001, 0)) == (3, False, True)
    assert edit.least_tokens == 1


async def test_a_conversation_that_fits_only_after_edits(claude: AsyncAnthropic, engine: EchoEngine) -> None:
    turns = history(2)
    turns[2]["content"][0]["content"] = " ".join(["w"] * (engine.max_model_len + 10))
    with pytest.raises(anthropic.BadRequestError):
        await asked(claude, {"edits": []}, turns)
    reply = await asked(claude, clear(), turns)
    assert reply.context_management.applied_edits[0].cleared_input_tokens > engine.max_model_len
    with pytest.raises(anthropic.BadRequestError):
        await asked(claude, clear(clear_at_least={"type": "input_tokens", "value": 10**6}), turns)


async def test_counting_says_both(claude: AsyncAnthropic) -> None:
    body: Any = {"model": "mock", "messages": history(3), "betas": []}
    plain = await claude.beta.messages.count_tokens(**body)
    assert plain.context_management is None
    count = await claude.beta.messages.count_tokens(**body, context_management=clear())
    assert count.context_management.original_input_tokens == plain.input_tokens > count.input_tokens + 50


@pytest.mark.parametrize(
    ("management", "says"),
    [
        ({"edits": [{"type": "compact_20260112"}]}, "not supported by this server: only clear_tool_uses"),
        ({"edits": [{"type": 7}]}, "edit"),
        ({"edits": [{}]}, "edit"),
        ({"edits": "all"}, "edits"),
        ({"strategy": "x"}, "`context_management.strategy` is unknown"),
        (clear(keep_last=1), "keep_last` is unknown"),
        (clear(keep={"type": "input_tokens", "value": 3}), "keep"),
        (clear(keep={"type": "tool_uses", "value": -1}), "keep"),
        (clear(trigger={"type": "messages", "value": 3}), "trigger"),
        (clear(trigger={"type": "tool_uses", "value": "3"}), "trigger"),
        ({"edits": [*clear()["edits"], *clear()["edits"]]}, "there twice"),
        ({"edits": [*clear()["edits"], {"type": "clear_thinking_20251015"}]}, "comes after another edit"),
        ({"edits": [{"type": "clear_thinking_20251015", "keep": {"type": "thinking_turns", "value": 0}}]}, "keep"),
        ({"edits": [{"type": "clear_thinking_20251015", "keep": "some"}]}, "keep"),
    ],
)
async def test_what_is_refused(claude: AsyncAnthropic, engine: EchoEngine, management: Any, says: str) -> None:
    with pytest.raises(anthropic.BadRequestError, match=says):
        await asked(claude, management)
    await engine.assert_idle()


REPAIR = {"kvloom": {"cache": {"fusion": {"selector": "epic", "ratio": 0.1, "tokens": 4}}}}


async def test_what_comes_after_an_edit_is_reused_when_asked_for(claude: AsyncAnthropic, engine: EchoEngine) -> None:
    await asked(claude, None)
    original = engine.prompts[-1]
    body: Any = {"model": "mock", "messages": history(3), "max_tokens": 1, "betas": []}
    reply = await claude.beta.messages.create(**body, context_management=clear(), extra_body=REPAIR)
    assert reply.context_management.applied_edits
    cache, prompt_ids = engine.caches[-1], engine.prompts[-1]
    assert cache.source is not None
    assert (cache.source.tokens, cache.fusion.name, cache.fusion.ratio) == (tuple(original), "epic", 0.1)
    for (start, stop), at in zip(cache.documents, cache.source.starts, strict=True):
        assert prompt_ids[start:stop] == original[at : at + stop - start]
    assert sum(stop - start for start, stop in cache.documents) >= 30


async def test_without_an_edit_that_applies_nothing_is_fused(claude: AsyncAnthropic, engine: EchoEngine) -> None:
    body: Any = {"model": "mock", "messages": history(3), "max_tokens": 1, "betas": []}
    never = clear(trigger={"type": "tool_uses", "value": 9})
    await claude.beta.messages.create(**body, context_management=never, extra_body=REPAIR)
    assert engine.caches[-1].fusion is None
    await asked(claude, clear())
    assert engine.caches[-1].fusion is None
    wrong = {"kvloom": {"cache": {"fusion": {"selector": "epic", "ratio": 3}}}}
    with pytest.raises(anthropic.BadRequestError, match="ratio"):
        await claude.beta.messages.create(**body, context_management=never, extra_body=wrong)
