"""What every dialect says of tools, and the pieces that an answer is told in: plain data.

A dialect's parser makes a ``ToolUse`` of its own fields. ``PieceReader`` cuts the text of one choice into pieces,
the same ones whether it comes whole or a token at a time, and the dialect's writer words them as its events.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, Protocol

from kvloom.engine.outputs import FinishReason

NO_ARGUMENTS: Mapping[str, Any] = MappingProxyType({"type": "object", "properties": {}, "additionalProperties": False})


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call.

    ``parameters``: the JSON schema of its arguments, an object's. ``strict``: all of it has to be held to, where calls
    are held to anything; otherwise keywords that cannot be are passed over.
    """

    name: str
    description: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=lambda: NO_ARGUMENTS)
    strict: bool = False

    def for_template(self) -> dict[str, Any]:
        """As chat templates expect it, which is OpenAI's form."""
        function: dict[str, Any] = {"name": self.name}
        if self.description is not None:
            function["description"] = self.description
        return {"type": "function", "function": function | {"parameters": dict(self.parameters)}}


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """``required``: at least one call, and of the tool ``name`` where one is named. ``auto``: as the model likes."""

    mode: Literal["none", "auto", "required"] = "auto"
    name: str | None = None


@dataclass(frozen=True, slots=True)
class ToolUse:
    """``parallel``: whether one answer may have several calls."""

    tools: Sequence[Tool] = ()
    choice: ToolChoice = field(default_factory=ToolChoice)
    parallel: bool = True

    @property
    def callable(self) -> Sequence[Tool]:
        """The tools that may be called."""
        if self.choice.mode == "none":
            return ()
        return [tool for tool in self.tools if self.choice.name in (None, tool.name)]


@dataclass(frozen=True, slots=True)
class TextPiece:
    """More of the answer's text."""

    text: str


@dataclass(frozen=True, slots=True)
class ReasoningPiece:
    """More of what the model says to itself before it answers."""

    text: str


@dataclass(frozen=True, slots=True)
class CallPiece:
    """Call ``index`` of this choice begins; its arguments follow."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class ArgumentsPiece:
    """More of the arguments of call ``index``: together they are the text of one JSON object."""

    index: int
    text: str


Piece = TextPiece | ReasoningPiece | CallPiece | ArgumentsPiece


class PieceReader(Protocol):
    """Reads the text of one choice. ``calls``: those that have begun."""

    @property
    def calls(self) -> int: ...

    def push(self, text: str) -> list[Piece]:
        """Take more text; return what is certain now."""
        ...

    def finish(self) -> list[Piece]:
        """The text is over: return the rest."""
        ...


class TokenCount(Protocol):
    """Counts some of the tokens of one choice. ``value``: so far."""

    @property
    def value(self) -> int: ...
    def take(self, token_ids: Sequence[int]) -> None: ...


@dataclass(slots=True)
class PlainReader:
    """All text is text: for requests without tools."""

    calls: int = 0

    def push(self, text: str) -> list[Piece]:
        return [TextPiece(text)] if text else []

    def finish(self) -> list[Piece]:
        return []


def beginning_of(tag: str, text: str) -> int:
    """Characters at the end of ``text`` that may be the beginning of ``tag``."""
    return next((size for size in range(min(len(tag) - 1, len(text)), 0, -1) if tag.startswith(text[-size:])), 0)


def new_call_id() -> str:
    return f"call_{uuid.uuid4().hex[:24]}"


def finish_reason_of(reason: FinishReason | None, calls: int) -> FinishReason | Literal["tool_calls"] | None:
    """In OpenAI's words: an answer that ended by itself, and has calls, waits for their results."""
    return "tool_calls" if reason == "stop" and calls else reason
