"""Tools in plain words, for models whose template knows none: in the system message, and calls and results as text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from kvloom.server.dialect.tools.reading import CLOSE, OPEN
from kvloom.server.pieces import Tool

_WORDS = f"""\
These functions can be called, here as JSON, one a line:
<tools>
{{tools}}
</tools>
To call one, answer with its name and its arguments as JSON, in this form:
{OPEN}
{{{{"name": "the name", "arguments": {{{{"argument": "value"}}}}}}}}
{CLOSE}
Results come between <tool_response> and </tool_response>."""

Turn = Mapping[str, Any]


def in_words(turns: Sequence[Turn], tools: Sequence[Tool]) -> list[dict[str, Any]]:
    """The conversation without any field that is about tools."""
    plain: list[dict[str, Any]] = []
    for turn in turns:
        if turn["role"] != "tool":
            plain.append(_plain(turn))
            continue
        result = f"<tool_response>\n{_text(turn.get('content'))}\n</tool_response>"
        if plain and plain[-1].pop("results", False):  # many templates want roles to take turns
            result = f"{plain.pop()['content']}\n{result}"
        plain.append({"role": "user", "content": result, "results": True})
    for turn in plain:
        turn.pop("results", None)
    return _told(plain, tools) if tools else plain


def _told(turns: list[dict[str, Any]], tools: Sequence[Tool]) -> list[dict[str, Any]]:
    listed = "\n".join(json.dumps(tool.for_template(), ensure_ascii=False) for tool in tools)
    words = _WORDS.format(tools=listed)
    if turns and turns[0]["role"] in ("system", "developer"):
        said = _text(turns[0].get("content"))
        return [{**turns[0], "content": f"{said}\n\n{words}" if said else words}, *turns[1:]]
    return [{"role": "system", "content": words}, *turns]


def _plain(turn: Turn) -> dict[str, Any]:
    calls = turn.get("tool_calls") or ()
    rest = {name: value for name, value in turn.items() if name not in ("tool_calls", "tool_call_id")}
    if not calls:
        return rest
    said = _text(turn.get("content"))
    return rest | {"content": "\n".join([*([said] if said else []), *map(_call, calls)])}


def _call(call: Mapping[str, Any]) -> str:
    function = call["function"]
    arguments = function.get("arguments") or "{}"
    said = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return f'{OPEN}\n{{"name": {json.dumps(function.get("name"), ensure_ascii=False)}, "arguments": {said}}}\n{CLOSE}'


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "\n".join(part["text"] for part in content)
    return content or ""
