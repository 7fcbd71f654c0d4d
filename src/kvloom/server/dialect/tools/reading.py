"""Readers that find calls in what a model says: the same pieces, however the text is cut."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from typing import Any

from kvloom.server.dialect.tools.call_text import CallText, State
from kvloom.server.pieces import ArgumentsPiece, CallPiece, Piece, TextPiece, beginning_of, new_call_id

_SPACE = " \t\r\n"
OPEN, CLOSE = "<tool_call>", "</tool_call>"


class TaggedReader:
    """Calls between ``<tool_call>`` and ``</tool_call>``, anywhere in the text: the form of Hermes, Qwen and others.

    White space around calls is none of the text. What stands between tags and is no call is text.
    """

    def __init__(self) -> None:
        self.calls = 0
        self._held = ""  # white space, or what may become a tag
        self._call: CallText | None = None
        self._closing = False

    def push(self, text: str) -> list[Piece]:
        pieces: list[Piece] = []
        while text:
            if self._call is not None:
                more, text = self._in_call(self._call, text)
            else:
                more, text = self._outside(text)
            pieces += more
        return pieces

    def finish(self) -> list[Piece]:
        call, self._call = self._call, None
        if call is not None and not call.begun:
            return [TextPiece(self._held + OPEN + call.text)]
        held = "" if self.calls and not self._held.strip(_SPACE) else self._held
        return [TextPiece(held)] if held and not self._closing else []

    def _outside(self, text: str) -> tuple[list[Piece], str]:
        text, self._held = self._held + text, ""
        if self._closing:  # after a call: its end tag, unless it was left out
            bare = text.lstrip(_SPACE)
            if CLOSE.startswith(bare) and bare != CLOSE:
                self._held = text
                return [], ""
            text, self._closing = bare.removeprefix(CLOSE), False
        at = text.find(OPEN)
        if at >= 0:
            self._call = CallText(self.calls, lambda name: True)
            before = text[:at].rstrip(_SPACE)
            self._held = text[len(before) : at]
            return self._text(before), text[at + len(OPEN) :]
        keep = beginning_of(OPEN, text)
        certain = text[: len(text) - keep].rstrip(_SPACE)
        self._held = text[len(certain) :]
        return self._text(certain), ""

    def _in_call(self, call: CallText, text: str) -> tuple[list[Piece], str]:
        pieces, rest = call.push(text)
        if call.begun and any(isinstance(piece, CallPiece) for piece in pieces):
            self.calls += 1
            self._held = ""
        if call.state is State.OPEN:
            return pieces, ""
        self._call = None
        if call.begun:
            self._closing = True
            return pieces, rest
        said, self._held = self._held + OPEN + call.text, ""
        return [*pieces, TextPiece(said)], rest

    def _text(self, text: str) -> list[Piece]:
        return [TextPiece(text)] if text else []


class BareReader:
    """Calls that are all of the answer: JSON objects, as Llama 3 writes them, one after another.

    An answer that begins otherwise, or calls something else than ``names``, is text.
    """

    def __init__(self, names: frozenset[str]) -> None:
        self.calls = 0
        self._names = names
        self._call: CallText | None = None
        self._held = ""
        self._plain = False

    def push(self, text: str) -> list[Piece]:
        pieces: list[Piece] = []
        while text:
            if self._plain:
                return [*pieces, TextPiece(text)]
            if self._call is None:
                more, text = self._between(self._held + text)
            else:
                more, text = self._in_call(self._call, text)
            pieces += more
        return pieces

    def finish(self) -> list[Piece]:
        call = self._call
        said = self._held + (call.text if call is not None and not call.begun else "")
        return [TextPiece(said)] if said and not (self.calls and not said.strip(_SPACE + ";,")) else []

    def _between(self, text: str) -> tuple[list[Piece], str]:
        at = text.lstrip(_SPACE + (";," if self.calls else ""))
        self._held = text[: len(text) - len(at)]
        if not at:
            return [], ""
        if at.startswith("{"):
            self._call = CallText(self.calls, self._names.__contains__)
            return [], at
        return self._give_up(text)

    def _in_call(self, call: CallText, text: str) -> tuple[list[Piece], str]:
        pieces, rest = call.push(text)
        if any(isinstance(piece, CallPiece) for piece in pieces):
            self.calls += 1
            self._held = ""
        if call.state is State.OPEN:
            return pieces, ""
        self._call = None
        if call.begun:
            return pieces, rest
        more, _ = self._give_up(self._held + call.text)
        return [*pieces, *more], rest

    def _give_up(self, text: str) -> tuple[list[Piece], str]:
        self._plain, self._held = True, ""
        return [TextPiece(text)], ""


class PythonicReader:
    """Calls as a Python list, ``[f(x=1), g()]``, which is all of the answer; it is read when it is over."""

    def __init__(self, names: frozenset[str]) -> None:
        self.calls = 0
        self._names = names
        self._held = ""
        self._plain = False

    def push(self, text: str) -> list[Piece]:
        if self._plain:
            return [TextPiece(text)] if text else []
        self._held += text
        begun = self._held.lstrip(_SPACE)
        if not begun or begun.startswith("["):
            return []
        self._plain, said = True, self._held
        return [TextPiece(said)]

    def finish(self) -> list[Piece]:
        if self._plain or not self._held:
            return []
        calls = _pythonic_calls(self._held, self._names.__contains__)
        if not calls:
            return [TextPiece(self._held)]
        self.calls = len(calls)
        pieces: list[Piece] = []
        for index, (name, arguments) in enumerate(calls):
            said = json.dumps(arguments, ensure_ascii=False)
            pieces += [CallPiece(index, new_call_id(), name), ArgumentsPiece(index, said)]
        return pieces


_JSON_WORDS = {"true": True, "false": False, "null": None}


def _pythonic_calls(text: str, accepts: Callable[[str], bool]) -> list[tuple[str, dict[str, Any]]]:
    """Calls in a list display; none when it is not one."""
    try:
        (statement,) = ast.parse(text.strip()).body
        listed = statement.value if isinstance(statement, ast.Expr) else None
        if not isinstance(listed, ast.List):
            return []
        calls = [_pythonic_call(node) for node in listed.elts]
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return []
    return calls if all(accepts(name) for name, _ in calls) else []


def _pythonic_call(node: ast.expr) -> tuple[str, dict[str, Any]]:
    if not isinstance(node, ast.Call) or node.args or not isinstance(node.func, ast.Name | ast.Attribute):
        raise ValueError("not a call with named arguments")
    return ast.unparse(node.func), {str(each.arg): _literal(each.value) for each in node.keywords}


def _literal(node: ast.expr) -> Any:
    """A value in Python's words or JSON's. Raises ValueError."""
    if isinstance(node, ast.Name) and node.id in _JSON_WORDS:
        return _JSON_WORDS[node.id]
    if isinstance(node, ast.List):
        return [_literal(each) for each in node.elts]
    if isinstance(node, ast.Dict):
        return {_literal(key): _literal(value) for key, value in zip(node.keys, node.values, strict=True) if key}
    return ast.literal_eval(node)
