"""The outermost middleware: request ids, authentication, limits, and the handler of last resort."""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kvloom.server.edge.access import Access
from kvloom.server.edge.limits import NO_LIMITS, Meters
from kvloom.server.error_forms import response_in_form
from kvloom.server.errors import STOPPING, UNAUTHORIZED, reply_to

access_log = logging.getLogger("kvloom.access")
"""Off unless somebody asks for it: a line for every request."""

_MAX_PATH = 200
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")


class Edge:
    """Echo or generate ``x-request-id``, authenticate, and answer any exception that nothing else handled.

    ``on_status``: told path, method and status of every answer.
    """

    def __init__(self, app: ASGIApp, access: Access, on_status: Callable[[str, str, int], None]) -> None:
        self.app = app
        self.access = access
        self.on_status = on_status
        self.meters = Meters()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = Headers(scope=scope).get("x-request-id", "")
        if not _REQUEST_ID.fullmatch(request_id):
            request_id = uuid.uuid4().hex
        began_s, status = time.monotonic(), 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self.on_status(scope["path"], scope["method"], status)
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        caller = self.access.caller(scope)
        try:
            if caller is None:
                await response_in_form(UNAUTHORIZED, scope)(scope, receive, send_with_id)
                return
            scope.setdefault("state", {})["caller"] = caller
            with self.meters.admitted(caller.limited_as, caller.limits if _counts(scope) else NO_LIMITS):
                await self.app(scope, receive, send_with_id)
        except ClientDisconnect:
            pass  # disconnected while its body was being read: there is no one to answer
        except asyncio.CancelledError:
            # The drain period is over and the work was cancelled: the task ends here.
            if not status:
                await response_in_form(STOPPING, scope)(scope, receive, send_with_id)
        except Exception as error:
            answer = reply_to(error)
            if not status:
                await response_in_form(answer, scope)(scope, receive, send_with_id)
        finally:
            if access_log.isEnabledFor(logging.INFO):
                _log(scope, status, time.monotonic() - began_s, request_id, None if caller is None else caller.client)


def _counts(scope: Scope) -> bool:
    """Whether a limit on requests is about this one."""
    path: str = scope["path"]
    return scope["method"] == "POST" and path.startswith("/v1/")


def _log(scope: Scope, status: int, seconds: float, request_id: str, client: str | None) -> None:
    """``status`` 0: the client left before there was an answer."""
    path, method = scope["path"].encode(errors="backslashreplace").decode(), scope["method"]
    fields = {
        "client": client,
        "method": method,
        "path": path[:_MAX_PATH],
        "status": status,
        "seconds": round(seconds, 6),
        "request_id": request_id,
    }
    access_log.info("%s %s %d in %.3f s", method, path[:_MAX_PATH], status, seconds, extra={"fields": fields})
