"""The bodies in which errors go out: OpenAI's, and Anthropic's where its clients ask."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic import ValidationError
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Scope

from kvloom.errors import KvloomError
from kvloom.server.errors import ErrorReply, reply_to, reply_to_http

_ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


def install(app: FastAPI) -> None:
    """Convert every expected exception of a route to an ``ErrorReply``. ``middleware.Edge`` catches the rest."""

    async def answer(request: Request, error: Exception) -> JSONResponse:
        return response_in_form(reply_to(error), request.scope)

    async def answer_http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        return response_in_form(reply_to_http(error, request), request.scope)

    for kind in (KvloomError, ValidationError):
        app.add_exception_handler(kind, answer)
    app.add_exception_handler(HTTPException, answer_http)


def response_in_form(reply: ErrorReply, scope: Scope) -> JSONResponse:
    """The response to a request, in the form that its client reads."""
    if not _is_anthropic(scope):
        return reply.response()
    return JSONResponse(anthropic_error(reply), reply.status, headers=dict(reply.headers))


def anthropic_error(reply: ErrorReply) -> dict[str, Any]:
    """``{"type": "error", "error": {"type": str, "message": str}}``; what else we know stands beside the message."""
    said = reply.body()["error"]
    kind = _ANTHROPIC_TYPES.get(reply.status, "invalid_request_error" if reply.status < 500 else "api_error")
    more = {name: said[name] for name in ("param", "code") if said[name] is not None}
    return {"type": "error", "error": {"type": kind, "message": said["message"], **more}}


def _is_anthropic(scope: Scope) -> bool:
    return scope["path"].startswith("/v1/messages") or "anthropic-version" in Headers(scope=scope)
