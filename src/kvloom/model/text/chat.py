"""Chat templates: the model's own Jinja, run in a sandbox with the same helpers as in Hugging Face."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from kvloom.errors import RequestError
from kvloom.model.text.template_process import TemplateProcess

_LARGE = 256 * 2**10  # characters of JSON


def render_chat(template: str, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any]) -> str:
    """Run ``template`` over ``messages`` in their normal form, in a process of its own.

    Raises RequestError for messages that the template refuses or takes too long to render, and for values that are not
    JSON; ModelFileError when the template itself is broken.
    """
    named = ",".join(f"{json.dumps(name)}:{_json(value, name)}" for name, value in variables.items())
    turns = _json(list(messages), "messages")
    return _process(os.getpid(), len(turns) > _LARGE).render(template, turns, f"{{{named}}}")


def start_rendering() -> None:
    """Start the process that templates run in, so that the first chat does not wait for it. Returns immediately."""
    _process(os.getpid(), False).start()


@cache
def _process(pid: int, large: bool) -> TemplateProcess:
    """Two for each process: after a fork the parent's are not ours, and small chats do not wait for large ones."""
    return TemplateProcess()


def _json(value: Any, name: str) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, default=_plain)
    except RecursionError:
        raise RequestError(f"`{name}` is too deeply nested for a chat template", param=name) from None
    except (TypeError, ValueError) as error:
        raise RequestError(f"`{name}` cannot be given to a chat template: {error}", param=name) from None


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a value of type {type(value).__name__} is not JSON")
