"""Tool calls in every family's form: found by the template, held to by a grammar, read back from the text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvloom.engine.grammar import Grammars
from kvloom.engine.params import SamplingParams
from kvloom.engine.sampling import Sampler
from kvloom.engine.structured import StructuredOutputsParams
from kvloom.errors import RequestError
from kvloom.server.dialect.tools.conversation import Conversation, form_of, prompt_of, reader_of
from kvloom.server.dialect.tools.forms import Bare, Pythonic, Tagged, ToolForm, ToolForms
from kvloom.server.dialect.tools.reading import BareReader, PythonicReader, TaggedReader
from kvloom.server.pieces import (
    ArgumentsPiece,
    CallPiece,
    Piece,
    PieceReader,
    TextPiece,
    Tool,
    ToolChoice,
    ToolUse,
)
from trained_tokenizer import trained_tokenizer

from .tool_templates import CHATML, HERMES, LLAMA3, PYTHONIC

WEATHER = Tool(
    "get_weather",
    "of a city",
    {
        "type": "object",
        "properties": {
            "city": {"type": "string", "maxLength": 10},
            "days": {"type": "integer", "minimum": 1, "maximum": 7},
            "unit": {"enum": ["C", "F"]},
        },
        "required": ["city"],
    },
)
CLOCK = Tool("clock.now")
TOOLS = (WEATHER, CLOCK)
FORMS: dict[str, ToolForm] = {
    "tagged": Tagged(),
    "bare": Bare(),
    "bare_many": Bare(many=True),
    "pythonic": Pythonic(),
}


def read(reader: PieceReader, parts: Sequence[str]) -> list[Piece]:
    return [piece for part in parts for piece in reader.push(part)] + reader.finish()


def told(pieces: Sequence[Piece]) -> tuple[str, list[tuple[str, str]]]:
    """(text, calls) of an answer; ids and indices are checked on the way."""
    text, calls, ids = "", [], set()
    for piece in pieces:
        match piece:
            case TextPiece():
                text += piece.text
            case CallPiece():
                assert piece.index == len(calls)
                ids.add(piece.id)
                calls.append((piece.name, ""))
            case ArgumentsPiece():
                assert piece.index == len(calls) - 1
                calls[-1] = calls[-1][0], calls[-1][1] + piece.text
    assert len(ids) == len(calls)
    return text, calls


def cuts(text: str) -> list[list[str]]:
    """Whole, letter by letter, and in pieces of a few letters."""
    return [[text], list(text), *([text[i : i + n] for i in range(0, len(text), n)] for n in (2, 3, 7))]


# -- the form ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "kind", "native"),
    [(HERMES, Tagged, True), (LLAMA3, Bare, True), (PYTHONIC, Pythonic, True), (CHATML, Tagged, False)],
)
def test_the_template_tells_the_form(template: str, kind: type, native: bool) -> None:
    form = ToolForms(trained_tokenizer(chat_template=template)).get()
    assert isinstance(form, kind)
    assert form.native is native


def test_the_forms_details_are_the_templates() -> None:
    assert ToolForms(trained_tokenizer(chat_template=HERMES)).get() == Tagged()
    close = HERMES.replace("<tool_call>\n", "<tool_call>").replace("\n</tool_call>", "</tool_call>")
    tight = close.replace('"name": ', '"name":').replace(', "arguments"', ',"arguments"')
    assert ToolForms(trained_tokenizer(chat_template=tight)).get() == Tagged(
        open='<tool_call>{"name":', between=',"arguments": ', close="}</tool_call>"
    )
    assert ToolForms(trained_tokenizer(chat_template=LLAMA3)).get() == Bare(many=False)


@cache
def _grammars() -> Grammars:
    return Grammars(trained_tokenizer(), 304)


def sampled(form: StructuredOutputsParams, seed: int) -> str:
    """What random scores make of it."""
    scores, tokenizer = np.random.default_rng(seed), trained_tokenizer()
    sampler = Sampler.start(SamplingParams(max_tokens=None), [1], [seed], _grammars().of(form).constraint([0]), [0])
    ids: list[int] = []
    while not sampler.over and ids[-1:] != [0] and len(ids) < 3000:
        ids.append(sampler.draw(scores.standard_normal(304).astype(np.float32)))
    return tokenizer.decode(ids)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@settings(max_examples=10)
@given(seed=st.integers(0, 2**32), parallel=st.booleans(), name=st.sampled_from([None, "get_weather", "clock.now"]))
def test_required_calls_are_valid(form: ToolForm, seed: int, parallel: bool, name: str | None) -> None:
    use = ToolUse(TOOLS, ToolChoice("required", name), parallel)
    conversation = Conversation([], use)
    asked = form_of(conversation, form)
    assert asked is not None
    text = sampled(asked, seed)
    whole = told(read(reader_of(conversation, form)(), [text]))
    said, calls = whole
    assert said == ""
    assert calls
    assert parallel or len(calls) == 1
    for called, arguments in calls:
        assert name in (None, called)
        jsonschema.validate(json.loads(arguments), dict(next(t for t in TOOLS if t.name == called).parameters))
    for parts in cuts(text)[1:3]:
        assert told(read(reader_of(conversation, form)(), parts)) == whole


@pytest.mark.parametrize("name", ["tagged", "pythonic"])
def test_a_form_beside_tools_is_had_or_a_call(name: str) -> None:
    answer = StructuredOutputsParams(json={"type": "object", "properties": {"n": {"type": "integer", "maximum": 9}}})
    conversation = Conversation([], ToolUse(TOOLS), answer)
    asked = form_of(conversation, FORMS[name])
    assert asked is not None
    seen = set()
    for seed in range(12):
        text, calls = told(read(reader_of(conversation, FORMS[name])(), [sampled(asked, seed)]))
        seen.add(bool(calls))
        if not calls:
            json.loads(text)
    assert seen == {True, False}


def test_required_calls_and_another_form_exclude_each_other() -> None:
    answer = StructuredOutputsParams(json_object=True)
    with pytest.raises(RequestError, match="another form"):
        form_of(Conversation([], ToolUse(TOOLS, ToolChoice("required")), answer), Tagged())
    with pytest.raises(RequestError, match="regex"):
        form_of(Conversation([], ToolUse(TOOLS), StructuredOutputsParams(regex="a")), Tagged())


# -- reading -------------------------------------------------------------------------------------------------------

CALL = '<tool_call>\n{"name": "f", "arguments": {"a": "x</tool_call>{\\"", "b": [1, {"c": 2}]}}\n</tool_call>'
ARGUMENTS = '{"a": "x</tool_call>{\\"", "b": [1, {"c": 2}]}'


@pytest.mark.parametrize(
    ("text", "said", "calls"),
    [
        ("hello <b>you</b> <tool", "hello <b>you</b> <tool", []),
        (" spaces \n", " spaces \n", []),
        (CALL, "", [("f", ARGUMENTS)]),
        (f"Let me see.\n{CALL}\n", "Let me see.", [("f", ARGUMENTS)]),
        (f"{CALL}\n{CALL}", "", [("f", ARGUMENTS)] * 2),
        (f"{CALL} and so", " and so", [("f", ARGUMENTS)]),
        ('<tool_call>{"name":"f"}</tool_call>', "", [("f", "{}")]),
        ('<tool_call>{"arguments": {"a": 1}, "name": "f"}</tool_call>', "", [("f", '{"a": 1}')]),
        ('<tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}</tool_call>', "", [("f", '{"a": 1}')]),
        ('<tool_call>{"name": "f", "parameters": {"a": 1}, "id": 3}</tool_call>', "", [("f", '{"a": 1}')]),
        ("<tool_call>no call</tool_call>", "<tool_call>no call</tool_call>", []),
        ('<tool_call>{"names": "f"}</tool_call>', '<tool_call>{"names": "f"}</tool_call>', []),
        ('<tool_call>{"name": "f", "argu', '<tool_call>{"name": "f", "argu', []),
        ('<tool_call>{"name": "f", "arguments": {"a": 1', "", [("f", '{"a": 1')]),
        ('<tool_call>{"name": "f", "arguments": {"a": 1}}', "", [("f", '{"a": 1}')]),
        (f'<tool_call>{{"name": "f", "arguments": {{"a": <tool_call>{CALL}', None, None),
    ],
)
def test_tagged_calls(text: str, said: str | None, calls: list[tuple[str, str]] | None) -> None:
    whole = told(read(TaggedReader(), [text]))
    if said is not None:
        assert whole == (said, calls)
    for parts in cuts(text):
        assert told(read(TaggedReader(), parts)) == whole


@pytest.mark.parametrize(
    ("text", "said", "calls"),
    [
        ("hello", "hello", []),
        (' {"name": "f", "parameters": {"a": 1}}', "", [("f", '{"a": 1}')]),
        (
            '{"name": "f", "parameters": {}}; {"name": "f", "parameters": {"a": "}"}}',
            "",
            [("f", "{}"), ("f", '{"a": "}"}')],
        ),
        ('{"name": "unknown", "parameters": {}}', '{"name": "unknown", "parameters": {}}', []),
        ('{"answer": 42}', '{"answer": 42}', []),
        ('{"answer": 42} {"name": "f", "parameters": {}}', '{"answer": 42} {"name": "f", "parameters": {}}', []),
        ("{", "{", []),
        ("  ", "  ", []),
        ("{curly} words", "{curly} words", []),
        ('{"name": "f", "parameters": {}} so', " so", [("f", "{}")]),
    ],
)
def test_bare_calls(text: str, said: str, calls: list[tuple[str, str]]) -> None:
    for parts in cuts(text):
        assert told(read(BareReader(frozenset({"f"})), parts)) == (said, calls)


@pytest.mark.parametrize(
    ("text", "said", "calls"),
    [
        ("hello", "hello", []),
        (
            "[f(a=1, b='x', c=[True, None], d={'e': false})]",
            "",
            [("f", '{"a": 1, "b": "x", "c": [true, null], "d": {"e": false}}')],
        ),
        ("[f(), g.h(x=-1)]", "", [("f", "{}"), ("g.h", '{"x": -1}')]),
        ("[f(1)]", "[f(1)]", []),
        ("[1, 2]", "[1, 2]", []),
        ("[f(x=__import__('os'))]", "[f(x=__import__('os'))]", []),
        ("[f(x=1", "[f(x=1", []),
        ("[unknown()]", "[unknown()]", []),
        ("", "", []),
    ],
)
def test_pythonic_calls(text: str, said: str, calls: list[tuple[str, str]]) -> None:
    for parts in cuts(text):
        assert told(read(PythonicReader(frozenset({"f", "g.h"})), parts)) == (said, calls)


FRAGMENTS = [CALL, "<tool_call>", "</tool_call>", *'{}"\\\n a', '{"name": "f", "arguments": {']


@given(st.lists(st.sampled_from(FRAGMENTS), max_size=8), st.randoms())
def test_however_it_is_cut_the_pieces_are_the_same(parts: list[str], random: Any) -> None:
    text = "".join(parts)
    at = sorted(random.randint(0, len(text)) for _ in range(3))
    cut = [text[a:b] for a, b in zip([0, *at], [*at, len(text)], strict=True)]
    for make in (TaggedReader, lambda: BareReader(frozenset({"f"})), lambda: PythonicReader(frozenset({"f"}))):
        assert told(read(make(), cut)) == told(read(make(), [text]))


# -- the prompt ----------------------------------------------------------------------------------------------------

TURNS: list[dict[str, Any]] = [
    {"role": "user", "content": "Weather?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Oslo"}'}}
        ],
    },
    {"role": "tool", "content": "rain", "tool_call_id": "call_1"},
]


@pytest.mark.parametrize("template", [HERMES, LLAMA3, PYTHONIC, CHATML])
def test_tools_calls_and_results_are_in_the_prompt(template: str) -> None:
    tokenizer = trained_tokenizer(chat_template=template)
    form = ToolForms(tokenizer).get()
    text = prompt_of(Conversation(TURNS, ToolUse(TOOLS)), tokenizer, form)
    for words in ("of a city", "clock.now", "Oslo", "rain"):
        assert text.count(words) == 1
    call = text[text.index("Weather?") : text.index("rain")]
    assert told(read(form.reader(TOOLS), [call[call.index("get") - 30 :]]))[1] or "get_weather" in call


def test_without_a_template_for_tools_they_are_told_in_words() -> None:
    tokenizer = trained_tokenizer(chat_template=CHATML)
    system = [{"role": "system", "content": "Be brief."}, *TURNS, TURNS[-1]]
    text = prompt_of(Conversation(system, ToolUse(TOOLS)), tokenizer, Tagged(native=False))
    assert text.startswith("<|im_start|>system\nBe brief.\n\nThese functions")
    assert '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>' in text
    assert text.count("<|im_start|>user") == 2
    assert text.count("<tool_response>\nrain\n</tool_response>") == 2


def test_with_none_no_tool_is_told() -> None:
    tokenizer = trained_tokenizer(chat_template=HERMES)
    use = ToolUse(TOOLS, ToolChoice("none"))
    assert "clock" not in prompt_of(Conversation(TURNS[:1], use), tokenizer, None)
