"""One request to an ASGI app whose client can leave at any moment. (The HTTP transport in process cannot.)"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

App = Callable[[Any, Any, Any], Awaitable[None]]


class Exchange:
    """``frames``: body pieces as they were sent. ``status``: None until the headers are out."""

    def __init__(self, app: App, path: str, body: bytes) -> None:
        self.status: int | None = None
        self.frames: list[bytes] = []
        self.sent = asyncio.Event()
        self._body = [body]
        self._gone = asyncio.Event()
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(b"content-type", b"application/json")],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
        }
        self.task = asyncio.ensure_future(app(scope, self._receive, self._send))

    def leave(self) -> None:
        self._gone.set()

    async def until_frames(self, count: int) -> None:
        while len(self.frames) < count and not self.task.done():
            self.sent.clear()
            await asyncio.wait((self.task, asyncio.ensure_future(self.sent.wait())), return_when="FIRST_COMPLETED")

    async def _receive(self) -> dict[str, Any]:
        if self._body:
            return {"type": "http.request", "body": self._body.pop(), "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        elif message.get("body"):
            self.frames.append(message["body"])
        self.sent.set()


@asynccontextmanager
async def exchange(app: App, path: str, **body: Any) -> AsyncIterator[Exchange]:
    """Send ``body``; on the way out the client leaves and the app must come to its end."""
    talk = Exchange(app, path, json.dumps({"model": "mock"} | body).encode())
    try:
        yield talk
    finally:
        talk.leave()
        done, _ = await asyncio.wait((talk.task,), timeout=3)  # wait_for would cancel it, and that ends anything
        assert done, "the app goes on although its client has left"
        talk.task.result()


def events(frames: list[bytes]) -> list[Any]:
    """The JSON documents of an event stream; ``[DONE]`` stays a string."""
    lines = b"".join(frames).decode().split("\n\n")
    assert lines.pop() == ""
    data = [line.removeprefix("data: ") for line in lines]
    return [one if one == "[DONE]" else json.loads(one) for one in data]
