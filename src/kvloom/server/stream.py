"""Server-sent events: the ``text/event-stream`` side of both endpoints."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from kvloom.errors import InternalError
from kvloom.server.disconnect import ClientGone, unless_gone
from kvloom.server.errors import STOPPING, ErrorReply, reply_to
from kvloom.server.reply import Reply
from kvloom.server.updates import Updates

_dumps = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode
_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


async def events(reply: Reply, updates: Updates, include_usage: bool) -> AsyncGenerator[bytes, None]:
    """Yield the event stream: a piece per update, at the end the usage if asked for and ``[DONE]``."""
    head = "data: " + _dumps(reply.head(reply.chunk_object))[:-1] + ',"choices":['
    tail = '],"usage":null}\n\n' if include_usage else "]}\n\n"
    async with aclosing(updates) as pairs:
        async for prompt, update in pairs:
            chunks = reply.chunks(prompt, update)
            yield "".join([head + _dumps(chunk) + tail for chunk in chunks]).encode()
    usage = head + '],"usage":' + _dumps(reply.usage()) + "}\n\n" if include_usage else ""
    yield (usage + "data: [DONE]\n\n").encode()


class EventStream(StreamingResponse):
    """Sends ``frames`` as they come. Stops, and closes them, at once when the client leaves.

    Headers go out with the first frame, so that a request the engine refuses still gets its status code.
    What goes wrong later is told in a last event.
    """

    def __init__(self, frames: AsyncGenerator[bytes, None]) -> None:
        super().__init__(frames, media_type="text/event-stream", headers=_HEADERS)
        self._frames = frames
        self._started = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await unless_gone(self._send(send), receive)
        except ClientGone:
            pass
        except asyncio.CancelledError:  # the server stops
            if not self._started:
                raise
            await _body(send, _event(STOPPING))
            await _end(send)

    async def _send(self, send: Send) -> None:
        async with aclosing(self._frames) as frames:
            frame = await anext(frames, None)
            if frame is None:
                raise InternalError("the stream ended before it began")
            self._started = True
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await _body(send, frame)
            try:
                async for frame in frames:
                    await _body(send, frame)
            except Exception as error:
                await _body(send, _event(reply_to(error)))
        await _end(send)


async def _body(send: Send, frame: bytes) -> None:
    if frame:
        await send({"type": "http.response.body", "body": frame, "more_body": True})


async def _end(send: Send) -> None:
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _event(reply: ErrorReply) -> bytes:
    return f"data: {_dumps(reply.body())}\n\n".encode()
