"""Blocks to the turns that chat templates read, and what each breakpoint stands behind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from kvloom.errors import RequestError
from kvloom.server.dialect.anthropic.schemas import (
    CacheControl,
    CountRequest,
    DocumentBlock,
    RedactedThinkingBlock,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
    Turn,
)
from kvloom.server.dialect.breakpoints import Breakpoint
from kvloom.server.dialect.fields import Json

_MAX_BREAKPOINTS = 4


@dataclass(slots=True)
class Turns:
    """``turns`` are in OpenAI's form. ``prefill``: the text with which the answer has begun."""

    turns: list[Json] = field(default_factory=list)
    breakpoints: list[Breakpoint] = field(default_factory=list)
    prefill: str = ""

    @classmethod
    def of(cls, body: CountRequest) -> Turns:
        """Templates write tools beside the system prompt: a breakpoint among them stands behind both.

        Raises RequestError.
        """
        self = cls()
        if body.system:
            texts = [TextBlock(type="text", text=body.system)] if isinstance(body.system, str) else body.system
            for text in texts:
                self._text("system", text.text)
                self._mark(text.cache_control)
        of_tools = [tool.cache_control for tool in body.tools or () if tool.cache_control is not None]
        self.breakpoints[:0] = [self._breakpoint(control) for control in of_tools]
        for turn in body.messages:
            self._turn(turn)
        self._mark(body.cache_control)
        self._check_breakpoints()
        self._take_prefill()
        return self

    def _turn(self, turn: Turn) -> None:
        if isinstance(turn.content, str):
            self._text(turn.role, turn.content)
            return
        for block in turn.content:
            match block:
                case TextBlock():
                    self._text(turn.role, block.text)
                case DocumentBlock():
                    self._document(turn.role, block)
                case ToolUseBlock():
                    self._call(turn.role, block)
                case ToolResultBlock():
                    self._result(turn.role, block)
                case ThinkingBlock():
                    self._open(turn.role)["reasoning_content"] = block.thinking
                case RedactedThinkingBlock():
                    continue
            self._mark(getattr(block, "cache_control", None))

    def _open(self, role: str) -> Json:
        """The turn that is being written. Neighbours of one role are one turn."""
        if not self.turns or self.turns[-1]["role"] != role:
            self.turns.append({"role": role, "content": []})
        return self.turns[-1]

    def _text(self, role: str, text: str) -> None:
        self._open(role)["content"].append({"type": "text", "text": text})

    def _document(self, role: str, block: DocumentBlock) -> None:
        if role == "assistant":
            raise RequestError(f"a `document` block in a message of role `{role}`: documents come from the user")
        said = {"id": block.name, "title": block.title, "context": block.context, "text": block.text}
        self._open(role)["content"].append({"type": "document", **said})

    def _call(self, role: str, block: ToolUseBlock) -> None:
        if role != "assistant":
            raise RequestError(f"a `tool_use` block in a message of role `{role}`: only the assistant calls tools")
        call = {"id": block.id, "type": "function", "function": {"name": block.name, "arguments": block.input}}
        self._open(role).setdefault("tool_calls", []).append(call)

    def _result(self, role: str, block: ToolResultBlock) -> None:
        if role != "user":
            raise RequestError(f"a `tool_result` block in a message of role `{role}`: results come from the user")
        texts = block.content if isinstance(block.content, str) else [text.text for text in block.content]
        content = [{"type": "text", "text": text} for text in ([texts] if isinstance(texts, str) else texts)]
        self.turns.append({"role": "tool", "tool_call_id": block.tool_use_id, "content": content})

    # -- breakpoints -----------------------------------------------------------------------------------------------

    def _mark(self, control: CacheControl | None) -> None:
        if control is not None:
            self.breakpoints.append(self._breakpoint(control))

    def _breakpoint(self, control: CacheControl) -> Breakpoint:
        return Breakpoint([_copied(turn) for turn in self.turns], control.ttl_s)

    def _check_breakpoints(self) -> None:
        if len(self.breakpoints) > _MAX_BREAKPOINTS:
            raise RequestError(
                f"there are {len(self.breakpoints)} blocks with cache_control, at most {_MAX_BREAKPOINTS} are allowed",
                param="cache_control",
            )
        lifetimes = [each.ttl_s for each in self.breakpoints]
        if lifetimes != sorted(lifetimes, reverse=True):
            raise RequestError(
                "a cache_control with ttl `1h` comes after one with ttl `5m`",
                hint="longer lifetimes come first, in the order tools, system, messages",
                param="cache_control",
            )

    def _take_prefill(self) -> None:
        if not self.turns:
            raise RequestError("the messages have no content: send at least one block that is read", param="messages")
        last = self.turns[-1]
        if last["role"] != "assistant":
            return
        if len(self.turns) == 1 or "tool_calls" in last:
            raise RequestError("the conversation ends with a turn that no answer can follow", param="messages")
        self.prefill = "".join(part["text"] for part in last["content"])
        del self.turns[-1]


def _copied(turn: Json) -> Json:
    lists: Sequence[str] = [name for name in ("content", "tool_calls") if name in turn]
    return turn | {name: list(turn[name]) for name in lists}
