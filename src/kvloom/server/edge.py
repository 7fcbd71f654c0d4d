"""The outermost layer: request ids, the API key, and the net under everything."""

from __future__ import annotations

import asyncio
import re
import secrets
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kvloom.server.errors import STOPPING, UNAUTHORIZED, reply_to

_GUARDED = ("/v1/", "/cache", "/tokenize", "/detokenize")
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")


class Edge:
    """Echo or make ``x-request-id``, demand the key on ``/v1`` and ``/cache``, answer what is left."""

    def __init__(self, app: ASGIApp, api_key: str | None) -> None:
        self.app = app
        self.expected = f"Bearer {api_key}".encode() if api_key is not None else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request_id = headers.get("x-request-id", "")
        if not _REQUEST_ID.fullmatch(request_id):
            request_id = uuid.uuid4().hex
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        if not self._admits(scope["path"], headers):
            await UNAUTHORIZED.response()(scope, receive, send_with_id)
            return
        try:
            await self.app(scope, receive, send_with_id)
        except ClientDisconnect:
            pass  # it left while we were reading its body: nobody to answer
        except asyncio.CancelledError:
            # The server has waited long enough for this request. Its work is undone: this is where the task ends.
            if not started:
                await STOPPING.response()(scope, receive, send_with_id)
        except Exception as error:
            answer = reply_to(error)
            if not started:
                await answer.response()(scope, receive, send_with_id)

    def _admits(self, path: str, headers: Headers) -> bool:
        if self.expected is None or not path.startswith(_GUARDED):
            return True
        return secrets.compare_digest(headers.get("authorization", "").encode(), self.expected)
