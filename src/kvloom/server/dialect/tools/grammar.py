"""Grammars of calls: an answer that has to call a tool is held to its template's own form, and to its schema."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from kvloom.server.pieces import Tool

MAX_CALLS = 16
"""In one answer: without an end, a small model calls until its context is full."""

_COMPOSED = {"allOf", "anyOf", "oneOf", "$ref", "additionalProperties", "patternProperties", "unevaluatedProperties"}


def calls_grammar(
    bodies: Sequence[str],
    rules: Sequence[str],
    separator: str,
    parallel: bool,
    around: tuple[str, str] | None = None,
) -> str:
    """A Lark grammar of one call, or of up to 16. ``bodies``: of each tool's call, over ``rules``."""
    calls = f"call ({quoted(separator)} call){{0,{MAX_CALLS - 1}}}" if parallel else "call"
    if around is not None:
        calls = f"{quoted(around[0])} {calls} {quoted(around[1])}"
    lines = ["start: calls", f"calls: {calls}"]
    lines.append("call: " + " | ".join(f"call_{n}" for n in range(len(bodies))))
    lines += [f"call_{n}: {body}" for n, body in enumerate(bodies)]
    return "\n".join([*lines, *rules])


def json_call(tool: Tool, n: int, before: str, between: str, after: str) -> tuple[str, str]:
    """(body, rule) of a call whose arguments are a JSON object; the name stands between ``before`` and ``between``."""
    head = f"{before}{json.dumps(tool.name, ensure_ascii=False)}{between}"
    return f"{quoted(head)} arguments_{n} {quoted(after)}", f"arguments_{n}: %json {arguments_schema(tool)}"


def pythonic_call(tool: Tool, n: int) -> tuple[str, list[str]]:
    """(body, rules) of ``name(a=1, b="x")``: required arguments first, then others in their order; values are JSON."""
    schema = tool.parameters
    properties = schema.get("properties") or {}
    required = [name for name in schema.get("required") or () if name in properties]
    others = [name for name in properties if name not in required]
    rules, words = [], []
    for place, name in enumerate([*required, *others]):
        value = {"$defs": schema.get("$defs", {}), **properties[name]} if isinstance(properties[name], Mapping) else {}
        rules.append(f"value_{n}_{place}: %json {_with_options(value, tool.strict)}")
        words.append(f"{quoted(f'{name}=')} value_{n}_{place}")
    given = ' ", " '.join(words[: len(required)])
    tail = _optional(words[len(required) :], first=not required)
    return f"{quoted(f'{tool.name}(')} {given} {tail} {quoted(')')}", rules


def _optional(words: Sequence[str], first: bool) -> str:
    """Any of ``words`` in their order, with commas between."""
    if not first:
        return " ".join(f'(", " {word})?' for word in words)
    ways = [" ".join([words[n], *(f'(", " {word})?' for word in words[n + 1 :])]) for n in range(len(words))]
    return f"({' | '.join(ways)})?" if ways else ""


def arguments_schema(tool: Tool) -> str:
    """The schema, in the library's words. Unless it says so, functions take no arguments that it does not name."""
    schema = {"type": "object", **tool.parameters}
    if not _COMPOSED & schema.keys():
        schema["additionalProperties"] = False
    return _with_options(schema, tool.strict)


def _with_options(schema: Mapping[str, Any], strict: bool) -> str:
    """White space as ``json.dumps`` has it, which is how templates write calls."""
    options = {
        "whitespace_flexible": False,
        "item_separator": ", ",
        "key_separator": ": ",
        "lenient": not strict,
    }
    return json.dumps({**schema, "x-guidance": options}, ensure_ascii=False)


def quoted(text: str) -> str:
    """A Lark terminal."""
    return json.dumps(text, ensure_ascii=False)
