"""Reasoning told apart: by readers for any cut of the text, and in every dialect, over an engine that says a script."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import httpx2
import pytest
from anthropic import AsyncAnthropic
from hypothesis import given
from hypothesis import strategies as st
from openai import AsyncOpenAI

from kvloom.config import ServerConfig
from kvloom.config.server import REASONING_PARSERS
from kvloom.engine.reasoning import ReasoningTokens
from kvloom.errors import ConfigError
from kvloom.server.app import create_app
from kvloom.server.dialect.reasoning import FORMS, ReasoningReader
from kvloom.server.dialect.tools.reading import TaggedReader
from kvloom.server.pieces import ArgumentsPiece, CallPiece, PlainReader, ReasoningPiece, TextPiece
from tiny import CharTokenizer

from .echo_engine import EchoEngine
from .test_tools import talk
from .tool_templates import CHATML
from .word_tokenizer import WordTokenizer

THINK = FORMS["qwen3"]
CALL = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'


def read(reader: ReasoningReader, texts: Sequence[str]) -> tuple[str, str, list[tuple[str, str]]]:
    """(reasoning, text, calls), put together."""
    pieces = [piece for text in texts for piece in reader.push(text)] + reader.finish()
    thought = "".join(piece.text for piece in pieces if isinstance(piece, ReasoningPiece))
    said = "".join(piece.text for piece in pieces if isinstance(piece, TextPiece))
    calls = [(piece.name, "") for piece in pieces if isinstance(piece, CallPiece)]
    for piece in pieces:
        if isinstance(piece, ArgumentsPiece):
            calls[piece.index] = calls[piece.index][0], calls[piece.index][1] + piece.text
    seen_text = False
    for piece in pieces:
        seen_text |= not isinstance(piece, ReasoningPiece)
        assert not (seen_text and isinstance(piece, ReasoningPiece)), "reasoning comes first"
    return thought, said, calls


CASES = [
    (None, "<think>\nso a < b\n</think>\n\nAn answer.\n", ("so a < b", "An answer.\n", [])),
    (None, " \n<think></think>Yes", ("", "Yes", [])),
    (None, "  Plain <think>no</think>", ("", "  Plain <think>no</think>", [])),
    (None, "<thin ice", ("", "<thin ice", [])),
    (None, "<think>cut off </thi", ("cut off </thi", "", [])),
    (None, "<thi", ("", "<thi", [])),
    (True, "\nhm </think >\n</think>\nOK", ("hm </think >", "OK", [])),
    (True, "<think>again</think>OK", ("again", "OK", [])),
    (True, "never closed\n", ("never closed", "", [])),
    (True, " <thi", ("<thi", "", [])),
    (None, f"<think>call it{CALL}</think>\nSure.\n{CALL}", (f"call it{CALL}", "Sure.", [("now", "{}")])),
]


@pytest.mark.parametrize(("inside", "text", "meant"), CASES)
def test_the_pieces_are_the_same_however_the_text_is_cut(inside: bool | None, text: str, meant: Any) -> None:
    def new() -> ReasoningReader:
        return ReasoningReader(THINK, inside, TaggedReader())

    assert read(new(), [text]) == meant
    assert read(new(), list(text)) == meant
    for at in range(len(text)):
        assert read(new(), [text[:at], text[at:]]) == meant


@given(
    st.lists(st.sampled_from(["<think>", "</think>", "<th", "ink>", "</", " ", "\n", "a", "<"]), max_size=12), st.data()
)
def test_nothing_is_lost_but_marks_and_the_space_around_them(parts: list[str], data: st.DataObject) -> None:
    text = "".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=4)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    inside = data.draw(st.sampled_from([None, True]))
    for cut in ([text], pieces):
        assert read(ReasoningReader(THINK, inside, PlainReader()), cut)[:2] == meant_by(text, inside)


def meant_by(text: str, inside: bool | None) -> tuple[str, str]:
    """(reasoning, text), by definition."""
    said = text.lstrip()
    if not said.startswith("<think>") and not inside:
        return "", text
    thought, _, answer = said.removeprefix("<think>").partition("</think>")
    return thought.strip(), answer.lstrip()


@pytest.mark.parametrize(
    ("inside", "text", "tokens"),
    [
        (None, "<think>ab</think>cd", 17),
        (True, "ab</think>cd", 10),
        (None, "abcd", 0),
        (None, "<thick>", 0),
        (True, "abc", 3),
    ],
)
@pytest.mark.parametrize("at_once", [1, 3, 100])
def test_tokens_are_counted_exactly_however_they_arrive(
    inside: bool | None, text: str, tokens: int, at_once: int
) -> None:
    tokenizer = CharTokenizer()
    ids = tokenizer.encode(text)
    count = ReasoningTokens(THINK, tokenizer, inside)  # type: ignore[arg-type]
    for start in range(0, len(ids), at_once):
        count.take(ids[start : start + at_once])
    assert count.value == tokens


# -- dialects ------------------------------------------------------------------------------------------------------

SCRIPT = "<think> first this then that </think> the answer"
THOUGHT, SAID = "first this then that", "the answer"
TEMPLATE = "{% if enable_thinking %}<think></think>{% endif %}"
ASK: Any = [{"role": "user", "content": "why"}]
Serve = Callable[..., AbstractAsyncContextManager[httpx2.AsyncClient]]


@pytest.fixture
def serve(new_engine: Callable[..., EchoEngine]) -> Serve:
    @asynccontextmanager
    async def serve(script: str = SCRIPT, template: str | None = TEMPLATE, **config: Any) -> AsyncIterator[Any]:
        tokenizer = WordTokenizer()
        tokenizer.chat_template = template
        engine = new_engine(tokenizer=tokenizer)
        made, tokens = engine.engine.intake.sequence, tokenizer.encode(script, False)

        def sequence(asked: Any, index: int) -> Any:
            found = made(asked, index)
            found.sampler.prompt, found.sampler.next = tokens, 0
            return found

        engine.engine.intake.sequence = sequence  # type: ignore[method-assign]
        transport = httpx2.ASGITransport(create_app(engine, ServerConfig(**config)))
        async with httpx2.AsyncClient(transport=transport, base_url="http://kvloom") as http:
            http.engine = engine  # type: ignore[attr-defined]
            http.words = tokenizer  # type: ignore[attr-defined]
            yield http

    return serve


def gpt(http: httpx2.AsyncClient) -> AsyncOpenAI:
    return AsyncOpenAI(api_key="none", base_url="http://kvloom/v1", http_client=http, max_retries=0)


def claude(http: httpx2.AsyncClient) -> AsyncAnthropic:
    return AsyncAnthropic(api_key="none", base_url="http://kvloom", http_client=http, max_retries=0)


def prompt_of(http: Any) -> str:
    found: str = http.words.decode(http.engine.prompts[-1])
    return found


async def test_chat_tells_reasoning_apart_whole_and_streamed(serve: Serve) -> None:
    async with serve() as http:
        asked: Any = {"model": "mock", "messages": ASK, "max_tokens": 8, "n": 2}
        reply = await gpt(http).chat.completions.create(**asked)
        for choice in reply.choices:
            message: Any = choice.message
            assert (message.reasoning_content, message.reasoning, message.content) == (THOUGHT, THOUGHT, SAID)
        assert reply.usage.completion_tokens_details.reasoning_tokens == 12
        assert reply.usage.completion_tokens == 16
        options: Any = {"include_usage": True}
        stream = await gpt(http).chat.completions.create(**asked | {"n": 1}, stream=True, stream_options=options)
        chunks = [chunk async for chunk in stream]
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    thoughts = [delta.reasoning_content for delta in deltas if getattr(delta, "reasoning_content", None)]
    assert len(thoughts) > 2
    assert "".join(thoughts) == "".join(d.reasoning for d in deltas if getattr(d, "reasoning", None)) == THOUGHT
    assert "".join(delta.content or "" for delta in deltas) == SAID
    assert chunks[-1].usage.completion_tokens_details.reasoning_tokens == 6


async def test_responses_have_reasoning_items(serve: Serve) -> None:
    async with serve() as http:
        client = gpt(http)
        reply = await client.responses.create(model="mock", input="why", max_output_tokens=8)
        thought, said = reply.output
        assert (thought.type, thought.content[0].type, thought.content[0].text) == (
            "reasoning",
            "reasoning_text",
            THOUGHT,
        )
        assert (said.type, reply.output_text) == ("message", SAID)
        assert reply.usage.output_tokens_details.reasoning_tokens == 6
        stream = await client.responses.create(model="mock", input="why", max_output_tokens=8, stream=True)
        events = [event async for event in stream]
        more: Any = {"previous_response_id": reply.id, "input": "go on"}
        assert (await client.responses.create(model="mock", max_output_tokens=8, **more)).output_text == SAID
    kinds = [event.type for event in events]
    thoughts = [event.delta for event in events if event.type == "response.reasoning_text.delta"]
    assert len(thoughts) > 2
    assert "".join(thoughts) == THOUGHT
    assert kinds.index("response.reasoning_text.done") < kinds.index("response.output_text.delta")
    assert kinds.count("response.output_item.added") == kinds.count("response.output_item.done") == 2
    assert [event.sequence_number for event in events] == list(range(len(events)))
    without_ids = [item.model_dump(exclude={"id"}) for item in events[-1].response.output]
    assert without_ids[0] == thought.model_dump(exclude={"id"})


async def test_messages_have_thinking_blocks(serve: Serve) -> None:
    async with serve() as http:
        asked: Any = {"model": "mock", "messages": ASK, "max_tokens": 8}
        reply = await claude(http).messages.create(**asked)
        thought, said = reply.content
        assert (thought.type, thought.thinking, said.type, said.text) == ("thinking", THOUGHT, "text", SAID)
        async with claude(http).messages.stream(**asked) as stream:
            kinds = [event.delta.type async for event in stream if event.type == "content_block_delta"]
            final = await stream.get_final_message()
        assert [block.model_dump() for block in final.content] == [block.model_dump() for block in reply.content]
        assert kinds.count("thinking_delta") > 2
        back: Any = [*ASK, {"role": "assistant", "content": [b.model_dump() for b in reply.content]}, *ASK]
        assert (await claude(http).messages.create(**asked | {"messages": back})).content[1].text == SAID


async def test_a_prompt_that_ends_within_reasoning_begins_there(serve: Serve) -> None:
    """Templates such as DeepSeek R1's open it themselves: here, the assistant's turn is called so."""
    async with serve(script="quite so </think> yes") as http:
        http.words.chat_prompt = lambda *rest, **more: "why <think>"  # type: ignore[attr-defined]
        reply = await gpt(http).chat.completions.create(model="mock", messages=ASK, max_tokens=4)
        message: Any = reply.choices[0].message
        assert (message.reasoning, message.content) == ("quite so", "yes")


@pytest.mark.parametrize(
    ("config", "template", "told"),
    [
        ({}, None, False),
        ({}, "no marks", False),
        ({"reasoning_parser": "none"}, TEMPLATE, False),
        ({"reasoning_parser": "deepseek_r1"}, None, True),
        ({"reasoning_parser": "qwen3"}, None, True),
    ],
)
async def test_the_template_or_a_flag_says_whether(serve: Serve, config: Any, template: str | None, told: bool) -> None:
    async with serve(template=template, **config) as http:
        reply = await gpt(http).chat.completions.create(model="mock", messages=ASK, max_tokens=8)
        message: Any = reply.choices[0].message
        assert message.content == (SAID if told else f" {SCRIPT}")
        assert getattr(message, "reasoning_content", None) == (THOUGHT if told else None)
        assert (reply.usage.completion_tokens_details is not None) is told


def test_parsers_have_names() -> None:
    assert set(REASONING_PARSERS) == {"auto", "none", *FORMS}
    with pytest.raises(ConfigError, match="unknown reasoning_parser `best`") as refused:
        ServerConfig(reasoning_parser="best")
    assert "qwen3" in str(refused.value.hint)


@pytest.mark.parametrize(("effort", "on"), [("none", False), ("minimal", True), ("low", True), ("high", True)])
async def test_effort_turns_the_templates_switches(serve: Serve, effort: Any, on: bool) -> None:
    async with serve(template=TEMPLATE + "{{ reasoning_effort }}") as http:
        await gpt(http).chat.completions.create(model="mock", messages=ASK, max_tokens=8, reasoning_effort=effort)
        assert f"enable_thinking={on} reasoning_effort={effort}" in prompt_of(http)
        await gpt(http).responses.create(model="mock", input="why", max_output_tokens=8, reasoning={"effort": effort})
        assert f"enable_thinking={on} reasoning_effort={effort}" in prompt_of(http)
        own: Any = {"chat_template_kwargs": {"enable_thinking": not on}}
        asked: Any = {"model": "mock", "messages": ASK, "max_tokens": 8, "reasoning_effort": effort}
        await gpt(http).chat.completions.create(**asked, extra_body=own)
        assert f"enable_thinking={not on}" in prompt_of(http), "what the request says of the template comes first"
        for kind, says in (("enabled", "True"), ("disabled", "False")):
            thinking: Any = {"type": kind, "budget_tokens": 1024}
            await claude(http).messages.create(model="mock", messages=ASK, max_tokens=8, thinking=thinking)
            assert f"enable_thinking={says}" in prompt_of(http)


async def test_effort_without_a_switch_is_refused(serve: Serve) -> None:
    body: Any = {"model": "mock", "max_tokens": 4}
    asks = [
        ("/v1/chat/completions", body | {"messages": ASK, "reasoning_effort": "low"}, "reasoning_effort"),
        ("/v1/responses", {"model": "mock", "input": "why", "reasoning": {"effort": "low"}}, "reasoning"),
        ("/v1/messages", body | {"messages": ASK, "thinking": {"type": "enabled"}}, "thinking"),
    ]
    async with serve(template=None) as http:
        for path, asked, field in asks:
            reply = await http.post(path, json=asked)
            assert (reply.status_code, reply.json()["error"]["param"]) == (400, field)
            assert "no switch for reasoning" in reply.json()["error"]["message"]
        off = await http.post("/v1/chat/completions", json=body | {"messages": ASK, "reasoning_effort": "none"})
        assert off.status_code == 200
        bad = await http.post("/v1/chat/completions", json=body | {"messages": ASK, "reasoning_effort": "huge"})
        assert bad.status_code == 400
        summary = {"model": "mock", "input": "why", "reasoning": {"summary": "auto"}}
        assert (await http.post("/v1/responses", json=summary)).status_code == 400


THINKING = (
    CHATML.removesuffix("{% endif %}")
    + "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% else %}<think>\n"
    "{% endif %}{% endif %}"
)


async def test_a_form_is_of_all_of_the_answer() -> None:
    """Then the template is told not to reason, and nothing in the answer is read as reasoning."""
    schema = {"type": "object", "properties": {"days": {"enum": [1, 2]}}, "required": ["days"]}
    form: Any = {"type": "json_schema", "json_schema": {"name": "days", "schema": schema}}
    tools: Any = [{"type": "function", "function": {"name": "now"}}]
    asked: Any = {"model": "tiny", "messages": ASK, "max_tokens": 300, "temperature": 0}
    async with talk(THINKING) as client:
        plain = (await client.chat.completions.create(**asked | {"max_tokens": 9})).choices[0].message
        assert plain.reasoning_content, "all of it, up to its end"  # type: ignore[attr-defined]
        held = (await client.chat.completions.create(**asked, response_format=form)).choices[0].message
        assert json.loads(held.content or "")["days"] in (1, 2)
        called = (await client.chat.completions.create(**asked, tools=tools, tool_choice="required")).choices[0].message
        assert {call.function.name for call in called.tool_calls or ()} == {"now"}  # type: ignore[union-attr]
    assert not hasattr(held, "reasoning_content")
    assert not hasattr(called, "reasoning_content")


async def test_reasoning_is_sent_back_by_either_name(serve: Serve) -> None:
    async with serve() as http:
        for name in ("reasoning", "reasoning_content"):
            turns = [*ASK, {"role": "assistant", "content": "so", name: "hm"}, *ASK]
            body = {"model": "mock", "messages": turns, "max_tokens": 2}
            reply = await http.post("/v1/chat/completions", json=body)
            assert reply.status_code == 200
            assert "x-kvloom-ignored" not in reply.headers
