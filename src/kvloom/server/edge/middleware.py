"""The outermost middleware: request ids, authentication, and the handler of last resort."""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kvloom.server.edge.access import Access
from kvloom.server.error_forms import response_in_form
from kvloom.server.errors import STOPPING, UNAUTHORIZED, reply_to

_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")


class Edge:
    """Echo or generate ``x-request-id``, authenticate, and answer any exception that nothing else handled.

    ``on_status``: told path, method and status of every answer.
    """

    def __init__(self, app: ASGIApp, access: Access, on_status: Callable[[str, str, int], None]) -> None:
        self.app = app
        self.access = access
        self.on_status = on_status

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = Headers(scope=scope).get("x-request-id", "")
        if not _REQUEST_ID.fullmatch(request_id):
            request_id = uuid.uuid4().hex
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                self.on_status(scope["path"], scope["method"], message["status"])
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        caller = self.access.caller(scope)
        if caller is None:
            await response_in_form(UNAUTHORIZED, scope)(scope, receive, send_with_id)
            return
        scope.setdefault("state", {})["caller"] = caller
        try:
            await self.app(scope, receive, send_with_id)
        except ClientDisconnect:
            pass  # disconnected while its body was being read: there is no one to answer
        except asyncio.CancelledError:
            # The drain period is over and the work was cancelled: the task ends here.
            if not started:
                await response_in_form(STOPPING, scope)(scope, receive, send_with_id)
        except Exception as error:
            answer = reply_to(error)
            if not started:
                await response_in_form(answer, scope)(scope, receive, send_with_id)
