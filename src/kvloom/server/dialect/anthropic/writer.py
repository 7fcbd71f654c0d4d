"""Pieces to Anthropic's events, and to the whole message."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Sequence

from kvloom.engine.cache_params import Mark
from kvloom.server.dialect.anthropic.usage import usage_of
from kvloom.server.dialect.fields import Json
from kvloom.server.dialect.writing import Finish, Usage
from kvloom.server.error_forms import anthropic_error
from kvloom.server.errors import ErrorReply
from kvloom.server.pieces import ArgumentsPiece, CallPiece, Piece, ReasoningPiece, TextPiece

PING = b'event: ping\ndata: {"type": "ping"}\n\n'


class MessageWriter:
    """``max_tokens``: what was asked for. ``marks``: the prefixes that are kept, ascending. ``applied``: edits of the
    context, if the body asked for some.
    """

    def __init__(
        self, model: str, max_tokens: int | None, marks: Sequence[Mark], applied: Sequence[Json] | None = None
    ) -> None:
        self.id = f"msg_{uuid.uuid4().hex}"
        self._max_tokens, self._marks = max_tokens, marks
        self._managed: Json = {} if applied is None else {"context_management": {"applied_edits": list(applied)}}
        self._content: list[Json] = []
        self._parts: list[str] = []  # of the last block
        self._message: Json = {
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
        }

    def begin(self, usage: Usage) -> Iterable[Json]:
        yield {"type": "message_start", "message": self._message | {"usage": usage_of(usage, self._marks)}}

    def piece(self, piece: Piece) -> Iterable[Json]:
        match piece:
            case TextPiece():
                if not self._content or self._content[-1]["type"] != "text":
                    yield from self._start({"type": "text", "text": ""})
                yield self._delta({"type": "text_delta", "text": piece.text}, piece.text)
            case ReasoningPiece():
                if not self._content or self._content[-1]["type"] != "thinking":
                    yield from self._start({"type": "thinking", "thinking": "", "signature": ""})
                yield self._delta({"type": "thinking_delta", "thinking": piece.text}, piece.text)
            case CallPiece():
                yield from self._start({"type": "tool_use", "id": piece.id, "name": piece.name, "input": {}})
            case ArgumentsPiece():
                yield self._delta({"type": "input_json_delta", "partial_json": piece.text}, piece.text)

    def end(self, finish: Finish, usage: Usage) -> Iterable[Json]:
        yield from self._stop()
        reason, sequence = self._reason(finish, usage)
        told = usage_of(usage, self._marks)
        stop = {"stop_reason": reason, "stop_sequence": sequence}
        self._message |= {"content": self._content, **stop, "usage": told} | self._managed
        counts = {name: value for name, value in told.items() if name.endswith("_tokens") or name == "kvloom"}
        yield {"type": "message_delta", "delta": stop, "usage": counts} | self._managed
        yield {"type": "message_stop"}

    def failed(self, reply: ErrorReply) -> Iterable[Json]:
        yield anthropic_error(reply)

    def whole(self) -> Json:
        return self._message

    def _start(self, block: Json) -> Iterable[Json]:
        yield from self._stop()
        self._content.append(dict(block))
        yield {"type": "content_block_start", "index": len(self._content) - 1, "content_block": block}

    def _delta(self, delta: Json, text: str) -> Json:
        self._parts.append(text)
        return {"type": "content_block_delta", "index": len(self._content) - 1, "delta": delta}

    def _stop(self) -> Iterable[Json]:
        """The last block is complete."""
        if not self._content:
            return
        block, text = self._content[-1], "".join(self._parts)
        self._parts.clear()
        if block["type"] in ("text", "thinking"):
            block[block["type"]] = text
        else:
            block["input"] = _arguments(text)
        yield {"type": "content_block_stop", "index": len(self._content) - 1}

    def _reason(self, finish: Finish, usage: Usage) -> tuple[str, str | None]:
        if finish.reason == "length":
            full = self._max_tokens is not None and usage.generated < self._max_tokens
            return "model_context_window_exceeded" if full else "max_tokens", None
        if isinstance(finish.stop, str):
            return "stop_sequence", finish.stop
        return "tool_use" if finish.calls else "end_turn", None


def _arguments(text: str) -> Json:
    """Of a call; none where ``max_tokens`` cut them off."""
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
