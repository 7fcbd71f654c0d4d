"""One call, a JSON object of a name and arguments, while it is being written."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from enum import Enum

from kvloom.server.pieces import ArgumentsPiece, CallPiece, Piece, new_call_id

_STRING = r'"(?:[^"\\]|\\.)*"'
_HEAD = re.compile(rf'\s*\{{\s*"name"\s*:\s*({_STRING})\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{{)', re.DOTALL)
_OUTSIDE_STRINGS = re.compile(r'[\s{}\[\],:"+\-.0-9A-Za-z]')


class State(Enum):
    OPEN = "open"
    OVER = "over"
    BROKEN = "broken"  # not JSON


class CallText:
    """Takes the text of one call; the name and the arguments go out as soon as they are certain.

    ``accepts``: whether a function of this name is called; else, and when it is no call, its text is only ``text``.
    ``begun``: whether a piece has gone out.
    """

    def __init__(self, index: int, accepts: Callable[[str], bool]) -> None:
        self.text = ""
        self.state = State.OPEN
        self.begun = False
        self._index, self._accepts = index, accepts
        self._depth = 0
        self._in_string = self._escaped = False
        self._arguments_at: int | None = None
        self._arguments_end: int | None = None
        self._sent = 0

    def push(self, text: str) -> tuple[list[Piece], str]:
        """Take of ``text`` what belongs to the call; return what is certain, and the rest."""
        taken = 0
        for taken, letter in enumerate(text, start=1):  # noqa: B007 (how much was taken)
            self.text += letter
            self._scan(letter)
            if self.state is not State.OPEN:
                break
        if self.state is State.BROKEN:
            self.text, taken = self.text[:-1], taken - 1
        return self._news(), text[taken:]

    def _scan(self, letter: str) -> None:
        if self._in_string:
            if self._escaped:
                self._escaped = False
            elif letter == "\\":
                self._escaped = True
            elif letter == '"':
                self._in_string = False
            return
        if _OUTSIDE_STRINGS.match(letter) is None or (self._depth == 0 and letter not in " \t\r\n{"):
            self.state = State.BROKEN
        elif letter == '"':
            self._in_string = True
        elif letter in "{[":
            self._open()
            self._depth += 1
        elif letter in "}]":
            self._depth -= 1
            if self._depth == 1 and self._arguments_at is not None and self._arguments_end is None:
                self._arguments_end = len(self.text)
            if self._depth <= 0:
                self.state = State.OVER

    def _open(self) -> None:
        """An object begins one level down: perhaps the arguments."""
        if self._depth == 1 and self._arguments_at is None:
            head = _HEAD.match(self.text)
            if head is not None and head.end() == len(self.text) - 1:
                self._arguments_at = self._sent = head.end()

    def _news(self) -> list[Piece]:
        if self._arguments_at is None:
            return self._whole() if self.state is State.OVER else []
        pieces: list[Piece] = []
        if not self.begun:
            head = _HEAD.match(self.text)
            assert head is not None
            name = json.loads(head[1], strict=False)
            if not self._accepts(name):
                return []
            self.begun = True
            pieces.append(CallPiece(self._index, new_call_id(), name))
        until = self._arguments_end or len(self.text)
        if until > self._sent:
            pieces.append(ArgumentsPiece(self._index, self.text[self._sent : until]))
            self._sent = until
        return pieces

    def _whole(self) -> list[Piece]:
        """A call whose parts come in another order, or whose arguments are no object."""
        try:
            call = json.loads(self.text, strict=False)
            name, arguments = call["name"], call.get("arguments", call.get("parameters")) or {}
            if isinstance(arguments, str):
                arguments = json.loads(arguments)
        except (ValueError, KeyError, RecursionError):
            return []
        if not isinstance(name, str) or not isinstance(arguments, dict) or not self._accepts(name):
            return []
        self.begun = True
        said = json.dumps(arguments, ensure_ascii=False)
        return [CallPiece(self._index, new_call_id(), name), ArgumentsPiece(self._index, said)]
