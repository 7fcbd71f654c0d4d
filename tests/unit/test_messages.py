"""Conversations in the one form that templates get; what transformers renders from that form is right."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from hf_directory import backend, ours, theirs, write
from kvloom.errors import RequestError
from kvloom.model.text.messages import normal_messages, template_variables

CALL = {"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1, "b": [2, "é"]}'}}
PLAIN = "{% for m in messages %}{{ m.role }}: {{ m.content }}{% endfor %}"
LISTS = "{% for m in messages %}{% for p in m['content'] %}{{ p['text'] }}{% endfor %}{% endfor %}"
EITHER = (
    "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for p in m.content if p.type == 'text' %}<{{ p.text }}>{% endfor %}{% endif %}{% endfor %}"
)
PARTS = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]


def contents(template: str, *messages: dict[str, Any]) -> list[Any]:
    return [message["content"] for message in normal_messages(messages, template)]


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


class TestContents:
    @pytest.mark.parametrize(
        "template",
        [
            LISTS,
            "{% for m in messages %}{% for p in m.content[1:] %}{% endfor %}{% endfor %}",
            "{% for m in messages %}{% set c = m['content'] %}{% for p in c | list %}{% endfor %}{% endfor %}",
            "{% for m in messages %}{{ m.content[0]['text'] }}{% endfor %}",
            "{% for m in messages %}{{ m['content'][0].type }}{% endfor %}",
            "{% macro show(content) %}{% for p in content %}{% endfor %}{% endmacro %}{{ show(m) }}",
            "{% generation %}{% endgeneration %}{% for p in messages[0].content %}{% endfor %}",
        ],
    )
    def test_a_template_that_walks_through_parts_gets_parts(self, template: str) -> None:
        assert contents(template, user(PARTS), user("c"), user(None)) == [PARTS, [{"type": "text", "text": "c"}], []]

    def test_a_template_that_tells_texts_from_lists_gets_what_was_sent(self) -> None:
        assert contents(EITHER, user(PARTS), user("c"), user(None)) == [PARTS, "c", ""]

    @pytest.mark.parametrize(
        "template",
        [
            PLAIN,
            "",
            "{% for %}",
            "{% for m in messages %}{% for line in m.content.split('x') %}{% endfor %}{{ m.content[0] }}{% endfor %}",
            "{% for content in messages %}{{ content.role }}{% endfor %}",
        ],
    )
    def test_others_get_text(self, template: str) -> None:
        assert contents(template, user(PARTS), user("c"), user(None)) == ["a\nb", "c", ""]

    @pytest.mark.parametrize("template", [PLAIN, LISTS, EITHER])
    @pytest.mark.parametrize(
        "part", [{"type": "image_url", "image_url": {"url": "x"}}, {"type": "text"}, {"type": "text", "text": 1}, 3]
    )
    def test_other_parts_are_refused(self, template: str, part: Any) -> None:
        with pytest.raises(RequestError, match="message 1 has a part of type") as caught:
            normal_messages([user("x"), user([part])], template)
        assert caught.value.param == "messages"


class TestToolCalls:
    def test_arguments_are_objects(self) -> None:
        (turn,) = normal_messages([{"role": "assistant", "content": None, "tool_calls": [CALL]}], PLAIN)
        assert turn["tool_calls"][0]["function"] == {"name": "add", "arguments": {"a": 1, "b": [2, "é"]}}
        assert (turn["content"], turn["tool_calls"][0]["id"]) == ("", "1")

    @pytest.mark.parametrize("arguments", ["", None, "{}", {}])
    def test_no_arguments_are_an_empty_object(self, arguments: Any) -> None:
        call = {"function": {"name": "now", "arguments": arguments}}
        (turn,) = normal_messages([{"role": "assistant", "tool_calls": [call]}], PLAIN)
        assert turn["tool_calls"][0]["function"]["arguments"] == {}

    @pytest.mark.parametrize("empty", [[], None])
    def test_an_empty_list_is_dropped(self, empty: Any) -> None:
        (turn,) = normal_messages([{"role": "assistant", "content": "x", "tool_calls": empty, "name": None}], PLAIN)
        assert turn == {"role": "assistant", "content": "x"}

    @pytest.mark.parametrize(
        "calls",
        ["x", {"a": 1}, ["x"], [{}], [{"function": "f"}]]
        + [[{"function": {"arguments": text}}] for text in ("{", "[1]", "3", "[" * 100_000, 5, [1])],
    )
    def test_broken_ones_are_refused(self, calls: Any) -> None:
        with pytest.raises(RequestError, match="message 0 has"):
            normal_messages([{"role": "assistant", "content": "x", "tool_calls": calls}], PLAIN)

    def test_what_was_sent_is_not_touched(self) -> None:
        sent = [{"role": "assistant", "content": PARTS, "tool_calls": [copy.deepcopy(CALL)]}]
        before = copy.deepcopy(sent)
        normal_messages(sent, PLAIN)
        assert sent == before


def test_a_developer_is_the_system_to_templates_that_know_none() -> None:
    said = [{"role": "developer", "content": "x"}]
    assert normal_messages(said, PLAIN)[0]["role"] == "system"
    assert (
        normal_messages(said, PLAIN + "{% if messages[0].role == 'developer' %}{% endif %}")[0]["role"] == "developer"
    )


@pytest.mark.parametrize("name", ["messages", "add_generation_prompt", "tools", "chat_template", "self", 3])
def test_variables_of_other_fields_are_refused(name: Any) -> None:
    with pytest.raises(RequestError, match="chat_template_kwargs may not set") as caught:
        template_variables({"enable_thinking": True, name: 1})
    assert caught.value.param == "chat_template_kwargs"


TOOLS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}{% if m.content is string %} {{ m.content }}{% else %}"
    "{% for p in m.content %} {{ p.text }}{% endfor %}{% endif %}{% if m.tool_calls is defined %} CALLS"
    "{% for call in m.tool_calls %}{% for name, value in call.function.arguments.items() %}"
    " {{ name }}={{ value | tojson }}{% endfor %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if enable_thinking is false %}<think></think>{% endif %}"
)


@pytest.mark.parametrize("thinking", [None, False, True])
def test_prompts_equal_those_of_transformers(tmp_path: Path, thinking: bool | None) -> None:
    directory = write(tmp_path / "model", backend(), chat_template=TOOLS, tokenizer_config={"bos_token": "<s>"})
    tokenizer, reference = ours(directory), theirs(directory)
    sent = [
        user(PARTS),
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": "3", "tool_call_id": "1"},
        {"role": "assistant", "content": "It is 3.", "tool_calls": []},
        user("thanks"),
    ]
    meant = copy.deepcopy(sent)
    meant[1]["tool_calls"][0]["function"]["arguments"] = {"a": 1, "b": [2, "é"]}
    del meant[3]["tool_calls"]
    variables = {} if thinking is None else {"enable_thinking": thinking}
    expected = reference.apply_chat_template(meant, tokenize=False, **variables)
    assert "a=1" in expected
    assert tokenizer.chat_prompt(sent, False, chat_template_kwargs=variables) == expected
