"""The normal form in which conversations reach a chat template."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from kvloom.errors import RequestError
from kvloom.model.text.template_form import TemplateForm, template_form

ROLES = ("system", "developer", "user", "assistant", "tool")
_OURS = ("self", "messages", "add_generation_prompt", "tools", "documents", "chat_template", "tokenize")
"""Template variables that are set by other fields of a request."""

Message = Mapping[str, Any]


def normal_messages(messages: Sequence[Message], template: str) -> list[dict[str, Any]]:
    """Copy ``messages`` in the form that ``template`` expects. Raises RequestError for what no template can read.

    Arguments of tool calls are objects, not JSON text. Empty entries are left out. Contents are lists of text parts for
    a template that iterates over parts, else text, parts joined by newlines. The developer role becomes system for
    templates that do not know it.
    """
    if not messages:
        raise RequestError("a chat needs at least one message", param="messages")
    form = template_form(template)
    return [_normal(message, f"message {index}", form) for index, message in enumerate(messages)]


def template_variables(given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Check a caller's template variables. Raises RequestError for reserved ones."""
    for name in given or {}:
        if not isinstance(name, str) or name in _OURS:
            raise RequestError(
                f"chat_template_kwargs may not set `{name}`",
                hint="it is for variables of the model's own template, such as enable_thinking",
                param="chat_template_kwargs",
            )
    return dict(given or {})


def _normal(message: Message, where: str, form: TemplateForm) -> dict[str, Any]:
    role = message.get("role") if isinstance(message, Mapping) else None
    if role not in ROLES:
        raise _bad(f"{where} has role {role!r}", hint=f"one of {', '.join(ROLES)}")
    turn = {name: value for name, value in message.items() if value is not None}
    if role == "developer" and not form.knows_developer:
        turn["role"] = "system"
    turn["content"] = _content(message.get("content"), where, form)
    if calls := turn.pop("tool_calls", None):
        turn["tool_calls"] = _calls(calls, where)
    return turn


def _calls(calls: Any, where: str) -> list[dict[str, Any]]:
    if not isinstance(calls, list | tuple):
        raise _bad(f"{where} has tool_calls of type {type(calls).__name__}, not a list")
    for call in calls:
        if not isinstance(call, Mapping) or not isinstance(call.get("function"), Mapping):
            raise _bad(f"{where} has a tool call without a `function`")
    return [
        {**call, "function": {**call["function"], "arguments": _arguments(call["function"], where)}} for call in calls
    ]


def _arguments(function: Mapping[str, Any], where: str) -> Any:
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            arguments = None
    if not isinstance(arguments, Mapping):
        raise _bad(f"{where} has a tool call whose arguments are not a JSON object")
    return dict(arguments)


def _content(content: Any, where: str, form: TemplateForm) -> str | list[dict[str, Any]]:
    if isinstance(content, str | None):
        if form.reads_texts:
            return content or ""
        return [{"type": "text", "text": content}] if content else []
    if not isinstance(content, list | tuple):
        raise _bad(f"{where} has content of type {type(content).__name__}, not text or a list of parts")
    texts = [_text(part, where) for part in content]
    return [{"type": "text", "text": text} for text in texts] if form.reads_parts else "\n".join(texts)


def _text(part: Any, where: str) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind != "text" or not isinstance(part.get("text"), str):
        raise _bad(f"{where} has a part of type {kind!r}", hint='only {"type": "text", "text": "..."} is supported')
    text: str = part["text"]
    return text


def _bad(message: str, hint: str | None = None) -> RequestError:
    return RequestError(message, hint=hint, param="messages")
