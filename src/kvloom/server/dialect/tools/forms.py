"""Forms in which models write calls, found in what their chat templates make of one."""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from kvloom.errors import ModelError, RequestError
from kvloom.server.dialect.tools.grammar import calls_grammar, json_call, pythonic_call
from kvloom.server.dialect.tools.reading import CLOSE, OPEN, BareReader, PythonicReader, TaggedReader
from kvloom.server.engine_protocol import Tokenizer
from kvloom.server.pieces import PieceReader, Tool


class ToolForm(Protocol):
    """``native``: the template shows tools, calls and results itself."""

    @property
    def native(self) -> bool: ...

    def reader(self, tools: Sequence[Tool]) -> PieceReader:
        """For one answer."""
        ...

    def grammar(self, tools: Sequence[Tool], parallel: bool) -> str:
        """In Lark's notation, of an answer that calls some of ``tools``; its rule ``calls`` is all of it."""
        ...


@dataclass(frozen=True, slots=True)
class Tagged:
    """``<tool_call>``, a JSON object, ``</tool_call>``: Hermes, Qwen and others. The fields are what stands between."""

    native: bool = True
    open: str = f'{OPEN}\n{{"name": '
    between: str = ', "arguments": '
    close: str = f"}}\n{CLOSE}"

    def reader(self, tools: Sequence[Tool]) -> PieceReader:
        return TaggedReader()

    def grammar(self, tools: Sequence[Tool], parallel: bool) -> str:
        calls = [json_call(tool, n, self.open, self.between, self.close) for n, tool in enumerate(tools)]
        return calls_grammar([body for body, _ in calls], [rule for _, rule in calls], "\n", parallel)


@dataclass(frozen=True, slots=True)
class Bare:
    """A JSON object that is all of the answer: Llama 3. ``many``: whether the template takes several calls."""

    native: bool = True
    between: str = ', "parameters": '
    many: bool = False

    def reader(self, tools: Sequence[Tool]) -> PieceReader:
        return BareReader(frozenset(tool.name for tool in tools))

    def grammar(self, tools: Sequence[Tool], parallel: bool) -> str:
        calls = [json_call(tool, n, '{"name": ', self.between, "}") for n, tool in enumerate(tools)]
        return calls_grammar([body for body, _ in calls], [rule for _, rule in calls], "; ", parallel and self.many)


@dataclass(frozen=True, slots=True)
class Pythonic:
    """A Python list of calls, ``[f(x=1)]``, that is all of the answer."""

    native: bool = True

    def reader(self, tools: Sequence[Tool]) -> PieceReader:
        return PythonicReader(frozenset(tool.name for tool in tools))

    def grammar(self, tools: Sequence[Tool], parallel: bool) -> str:
        calls = [pythonic_call(tool, n) for n, tool in enumerate(tools)]
        bodies, rules = [body for body, _ in calls], [rule for _, several in calls for rule in several]
        return calls_grammar(bodies, rules, ", ", parallel, around=("[", "]"))


_NAME, _ASKED, _SAID = "lookup_b7", "question-b7", "value-b7"
_PROBE = Tool(_NAME, "probe", {"type": "object", "properties": {"word": {"type": "string"}}})

_TAGGED = re.compile(rf'{OPEN}(\s*)\{{"name":(\s*)"{_NAME}",(\s*)"arguments":(\s*)\{{.*?\}}\}}(\s*){CLOSE}', re.DOTALL)
_BARE = re.compile(rf'\{{"name": ?"{_NAME}",(\s*)"(parameters|arguments)":(\s*)\{{')
_PYTHONIC = re.compile(rf"\[{_NAME}\(word=")


class ToolForms:
    """The form of the served model, found when it is first needed. Any thread may ask."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._lock = threading.Lock()
        self._form: ToolForm | None = None

    def get(self) -> ToolForm:
        """Renders a few short chats the first time. Raises ModelError when the model has no chat template."""
        with self._lock:
            if self._form is None:
                self._form = self._find()
            return self._form

    def _find(self) -> ToolForm:
        shown = self._render(calls=0)
        called = self._render(calls=1)
        if shown is None or called is None or _NAME not in shown:
            return Tagged(native=False)
        after = called[called.rindex(_ASKED) :]
        if (found := _TAGGED.search(after)) is not None:
            a, b, c, d, e = found.groups()
            return Tagged(open=f'{OPEN}{a}{{"name":{b}', between=f',{c}"arguments":{d}', close=f"}}{e}{CLOSE}")
        if (found := _BARE.search(after)) is not None:
            return Bare(between=f',{found[1]}"{found[2]}":{found[3]}', many=self._render(calls=2) is not None)
        return Pythonic() if _PYTHONIC.search(after) else Tagged(native=False)

    def _render(self, calls: int) -> str | None:
        """A chat with so many calls in it, None when the template refuses it."""
        function = {"name": _NAME, "arguments": {"word": _SAID}}
        called: list[dict[str, Any]] = [
            {"id": f"call_{n}", "type": "function", "function": function} for n in range(calls)
        ]
        turns: list[dict[str, Any]] = [{"role": "user", "content": _ASKED}]
        if called:
            turns.append({"role": "assistant", "content": None, "tool_calls": called})
        try:
            return self._tokenizer.chat_prompt(turns, not called, tools=[_PROBE.for_template()])
        except RequestError:
            return None
        except ModelError:
            if not calls:
                raise
            return None
