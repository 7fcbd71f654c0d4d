"""Pieces to the events of the Responses API, and to the whole response."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Iterator

from kvloom.server.dialect.fields import Json
from kvloom.server.dialect.writing import Finish, Usage
from kvloom.server.errors import ErrorReply
from kvloom.server.pieces import ArgumentsPiece, CallPiece, Piece, ReasoningPiece, TextPiece


class ResponseWriter:
    """``settings``: fields of the response that repeat the request. ``writes``: whether the prompt's KV is kept.
    ``done``: told the response when it is whole.
    """

    def __init__(self, settings: Json, writes: bool, done: Callable[[Json], None] = lambda _: None) -> None:
        self.id = f"resp_{uuid.uuid4().hex}"
        self._writes, self._done = writes, done
        self._items: list[Json] = []
        self._parts: list[str] = []  # of the last item
        self._sequence = 0
        self._begun = False
        self._response: Json = {
            "id": self.id,
            "object": "response",
            "created_at": int(time.time()),
            "completed_at": None,
            "status": "in_progress",
            "error": None,
            "incomplete_details": None,
            "output": [],
            "usage": None,
        } | settings

    def begin(self, usage: Usage) -> Iterable[Json]:
        self._begun = True
        for name in ("created", "in_progress"):
            yield self._event(f"response.{name}", response=dict(self._response))

    def piece(self, piece: Piece) -> Iterable[Json]:
        match piece:
            case TextPiece():
                yield from self._text(piece.text)
            case ReasoningPiece():
                yield from self._thought(piece.text)
            case CallPiece():
                said = {"type": "function_call", "call_id": piece.id, "name": piece.name, "arguments": ""}
                yield from self._open({"id": _id("fc"), "status": "in_progress"} | said)
            case ArgumentsPiece():
                self._parts.append(piece.text)
                yield self._in_item("response.function_call_arguments.delta", delta=piece.text)

    def end(self, finish: Finish, usage: Usage) -> Iterable[Json]:
        status = "incomplete" if finish.reason == "length" else "completed"
        yield from self._close(status)
        details = {"reason": "max_output_tokens"} if status == "incomplete" else None
        self._response |= {
            "status": status,
            "completed_at": int(time.time()) if status == "completed" else None,
            "incomplete_details": details,
            "output": self._items,
            "usage": self._usage(usage),
        }
        self._done(self._response)
        yield self._event(f"response.{status}", response=self._response)

    def failed(self, reply: ErrorReply) -> Iterable[Json]:
        said = reply.body()["error"]
        if not self._begun:
            told = {name: said[name] for name in ("code", "message", "param")}
            yield self._event("error", **told)
            return
        error = {"code": "server_error", "message": said["message"]}
        yield self._event("response.failed", response=self._response | {"status": "failed", "error": error})

    def whole(self) -> Json:
        return self._response

    # -- items -----------------------------------------------------------------------------------------------------

    def _text(self, text: str) -> Iterator[Json]:
        if not self._items or self._items[-1]["type"] != "message" or self._items[-1]["status"] != "in_progress":
            said = {"type": "message", "role": "assistant", "content": []}
            yield from self._open({"id": _id("msg"), "status": "in_progress"} | said)
            yield self._in_item("response.content_part.added", content_index=0, part=_part(""))
        self._parts.append(text)
        yield self._in_item("response.output_text.delta", content_index=0, delta=text, logprobs=[])

    def _thought(self, text: str) -> Iterator[Json]:
        if not self._items or self._items[-1]["type"] != "reasoning":
            said = {"type": "reasoning", "summary": [], "content": []}
            yield from self._open({"id": _id("rs"), "status": "in_progress"} | said)
        self._parts.append(text)
        yield self._in_item("response.reasoning_text.delta", content_index=0, delta=text)

    def _open(self, item: Json) -> Iterator[Json]:
        yield from self._close("completed")
        self._items.append(item)
        yield self._event("response.output_item.added", output_index=len(self._items) - 1, item=dict(item))

    def _close(self, status: str) -> Iterator[Json]:
        """The last item is complete, or cut off."""
        if not self._items:
            return
        item, text = self._items[-1], "".join(self._parts)
        self._parts.clear()
        item["status"] = status
        if item["type"] == "message":
            item["content"] = [_part(text)]
            yield self._in_item("response.output_text.done", content_index=0, text=text, logprobs=[])
            yield self._in_item("response.content_part.done", content_index=0, part=_part(text))
        elif item["type"] == "reasoning":
            item["content"] = [{"type": "reasoning_text", "text": text}]
            yield self._in_item("response.reasoning_text.done", content_index=0, text=text)
        else:
            item["arguments"] = text
            yield self._in_item("response.function_call_arguments.done", arguments=text, name=item["name"])
        yield self._event("response.output_item.done", output_index=len(self._items) - 1, item=dict(item))

    def _in_item(self, kind: str, **fields: object) -> Json:
        index = len(self._items) - 1
        return self._event(kind, item_id=self._items[index]["id"], output_index=index, **fields)

    def _event(self, kind: str, **fields: object) -> Json:
        self._sequence += 1
        return {"type": kind, "sequence_number": self._sequence - 1, **fields}

    def _usage(self, usage: Usage) -> Json:
        """``cache_write_tokens``: of the prompt, whose KV was computed and is kept while there is room."""
        written = usage.prompt - usage.cached if self._writes else 0
        return {
            "input_tokens": usage.prompt,
            "input_tokens_details": {"cached_tokens": usage.cached, "cache_write_tokens": written},
            "output_tokens": usage.generated,
            "output_tokens_details": {"reasoning_tokens": usage.reasoning},
            "total_tokens": usage.prompt + usage.generated,
            **usage.told,
        }


def _part(text: str) -> Json:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _id(prefix: str) -> str:
    return f"{prefix}_{uuid.uuid4().hex}"
