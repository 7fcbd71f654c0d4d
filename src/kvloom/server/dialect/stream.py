"""Server-sent events (``text/event-stream``) for both endpoints."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from pydantic_core import to_json
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from kvloom.errors import InternalError
from kvloom.server.dialect.reply import Reply
from kvloom.server.disconnect import ClientGone, unless_gone
from kvloom.server.errors import STOPPING, ErrorReply, reply_to
from kvloom.server.updates import Updates

_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
HEARTBEAT = b": keep-alive\n\n"


async def events(
    reply: Reply, updates: Updates, include_usage: bool, usage_in_chunks: bool = False
) -> AsyncGenerator[bytes, None]:
    """Yield the event stream: one event per update, then usage if requested, and ``[DONE]``."""
    head = b"data: " + to_json(reply.head(reply.chunk_object))[:-1] + b',"choices":['
    first: bytes | None = b"data: " + to_json(reply.head(reply.chunk_object) | reply.opening())[:-1] + b',"choices":['
    tail = b'],"usage":null}\n\n' if include_usage else b"]}\n\n"
    async with aclosing(updates) as pairs:
        async for prompt, update in pairs:
            chunks = reply.chunks(prompt, update)
            if usage_in_chunks:
                tail = _usage(reply)
            frames = [head + to_json(chunk) + tail for chunk in chunks]
            if first is not None and frames:
                frames[0], first = first + frames[0].removeprefix(head), None
            yield b"".join(frames)
    usage = head + _usage(reply) if include_usage else b""
    yield usage + b"data: [DONE]\n\n"


def _usage(reply: Reply) -> bytes:
    return b'],"usage":' + to_json(reply.usage()) + b"}\n\n"


def error_frame(reply: ErrorReply) -> bytes:
    return b"data: " + to_json(reply.body()) + b"\n\n"


class EventStream(StreamingResponse):
    """Sends ``frames`` as they arrive. Stops immediately, and closes them, when the client disconnects.

    Headers go out with the first frame, so that a request the engine refuses still gets its status code.
    Later errors are sent as the last event. In a silence, such as the wait for a long prompt, a comment goes out
    every ``heartbeat_s`` seconds: proxies cut connections on which nothing moves.

    ``failed``, ``heartbeat``: how a dialect writes an error, and a sign of life.
    """

    def __init__(
        self,
        frames: AsyncGenerator[bytes, None],
        heartbeat_s: float,
        failed: Callable[[ErrorReply], bytes] = error_frame,
        heartbeat: bytes = HEARTBEAT,
    ) -> None:
        super().__init__(frames, media_type="text/event-stream", headers=_HEADERS)
        self._frames, self._failed, self._heartbeat = frames, failed, heartbeat
        self._heartbeat_s = heartbeat_s
        self._starting = asyncio.Lock()
        self._started = False
        self._silent = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await unless_gone(self._send_all(send), receive)
        except ClientGone:
            pass
        except asyncio.CancelledError:  # the server stops
            if not self._started:
                raise
            await _body(send, self._failed(STOPPING))
            await _end(send)

    async def _send_all(self, send: Send) -> None:
        beat = asyncio.create_task(self._beat(send))
        try:
            await self._send_frames(send)
        finally:
            beat.cancel()
            await asyncio.gather(beat, return_exceptions=True)
        await _end(send)

    async def _send_frames(self, send: Send) -> None:
        async with aclosing(self._frames) as frames:
            try:
                async for frame in frames:
                    self._silent = False
                    if not self._started:
                        await self._start(send)
                    await _body(send, frame)
            except Exception as error:
                if not self._started:
                    raise
                await _body(send, self._failed(reply_to(error)))
        if not self._started:
            raise InternalError("the stream ended before it began")

    async def _start(self, send: Send) -> None:
        async with self._starting:
            if not self._started:
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                self._started = True

    async def _beat(self, send: Send) -> None:
        while True:
            await asyncio.sleep(self._heartbeat_s)
            if self._silent:
                await self._start(send)
                await _body(send, self._heartbeat)
            self._silent = True


async def _body(send: Send, frame: bytes) -> None:
    if frame:
        await send({"type": "http.response.body", "body": frame, "more_body": True})


async def _end(send: Send) -> None:
    await send({"type": "http.response.body", "body": b"", "more_body": False})
