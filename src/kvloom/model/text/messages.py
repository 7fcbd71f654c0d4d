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


_END = "kvloom:end-of-the-final-message:"


def with_marked_end(turns: Sequence[Message]) -> list[dict[str, Any]]:
    """``turns``, in their normal form, with a mark at the end of the last one's text. Raises RequestError without one.

    Templates trim texts: where the mark comes out, the text ends as it was sent.
    """
    content = turns[-1]["content"]
    if isinstance(content, list) and content:
        marked: Any = [*content[:-1], {"type": "text", "text": content[-1]["text"] + _END}]
    elif isinstance(content, str) and content:
        marked = content + _END
    else:
        raise _bad("the final message has no text to continue")
    return [*map(dict, turns[:-1]), {**turns[-1], "content": marked}]


def until_marked(text: str) -> str:
    """The prompt up to the mark. Raises RequestError when the template has dropped it."""
    at = text.rfind(_END)
    if at < 0:
        raise _bad("the model's chat template does not show the final message, so it cannot be continued")
    return text[:at]


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
