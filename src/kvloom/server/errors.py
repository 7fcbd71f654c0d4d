"""The only place where exceptions become status codes and OpenAI's error bodies. ``error_forms`` has the others.

    {"error": {"message": str, "type": str, "param": str | null, "code": str | null}}

A client error is explained; an internal error is reported without details.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from kvloom.errors import (
    KvloomError,
    ModelError,
    ModelNotFound,
    NumericsError,
    PromptTooLong,
    RequestError,
    SessionRefused,
)
from kvloom.server.missing import not_allowed, not_found
from kvloom.server.places import place_in_body

log = logging.getLogger("kvloom.server")

_RETRY_AFTER_S = "1"
_MAX_DETAILS = 3
_MAX_LISTED = 1000
_MAX_MESSAGE, _MAX_PARAM = 2000, 200


class BodyTooLarge(RequestError):
    """The request's body exceeds ``max_body_bytes``."""


class AdminOnly(RequestError):
    """The request requires an admin key."""


class NothingStored(RequestError):
    """What the request names is not kept, or not for this caller."""


class QueueFull(KvloomError):
    """As many prompts wait as may."""


class TooManyRequests(KvloomError):
    """A client sends more requests than it may. ``after_s``: whole seconds until it may send another."""

    def __init__(self, message: str, after_s: int) -> None:
        super().__init__(message, hint=f"try again in {after_s} s")
        self.after_s = after_s


class PreviousNotFound(RequestError):
    """The response that a request continues is not kept, or not for this caller."""


class RequestAborted(KvloomError):
    """The engine aborted the request before its answer was complete."""


@dataclass(frozen=True, slots=True)
class ErrorReply:
    """A status code and the fields of OpenAI's error object."""

    status: int
    message: str
    type: str = "invalid_request_error"
    param: str | None = None
    code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        param = None if self.param is None else _bounded(self.param, _MAX_PARAM)
        fields = {"message": _bounded(self.message, _MAX_MESSAGE), "type": self.type, "param": param, "code": self.code}
        return {"error": fields}

    def response(self) -> JSONResponse:
        return JSONResponse(self.body(), self.status, headers=dict(self.headers))


UNAUTHORIZED = ErrorReply(
    401,
    "the API key is missing or wrong (hint: send it as `Authorization: Bearer KEY` or `x-api-key: KEY`)",
    "authentication_error",
    code="invalid_api_key",
    headers={"WWW-Authenticate": "Bearer"},
)
INTERNAL = ErrorReply(500, "internal error: see the server's log", "server_error", code="internal_error")
STOPPING = ErrorReply(503, "the server is stopping", "server_error", code="server_stopping")
NOT_ALIVE = ErrorReply(503, "the engine has stopped", "server_error", code="engine_stopped")


def reply_to(error: Exception) -> ErrorReply:
    """Convert ``error`` to a reply. Internal errors are logged and not disclosed."""
    match error:
        case PromptTooLong():
            return ErrorReply(400, _words(error), param=error.param, code="context_length_exceeded")
        case BodyTooLarge():
            return ErrorReply(413, _words(error), code="request_too_large")
        case PreviousNotFound():
            return ErrorReply(400, _words(error), param=error.param, code="previous_response_not_found")
        case NothingStored():
            return ErrorReply(404, _words(error), param=error.param, code="not_found")
        case AdminOnly():
            return ErrorReply(403, _words(error), "permission_error", code="admin_only")
        case RequestError():
            return ErrorReply(400, _words(error), param=place_in_body(error.param))
        case SessionRefused():
            return ErrorReply(409, _words(error), code="session_refused")
        case ModelNotFound():
            return ErrorReply(404, _words(error), param="model", code="model_not_found")
        case ModelError():
            return ErrorReply(400, _words(error), param="model")
        case NumericsError():
            log.error("%s", error)
            return ErrorReply(500, _words(error), "server_error", code="not_finite")
        case QueueFull():
            return ErrorReply(
                429, _words(error), "rate_limit_error", code="queue_full", headers={"Retry-After": _RETRY_AFTER_S}
            )
        case TooManyRequests(after_s=after_s):
            headers = {"Retry-After": str(after_s)}
            return ErrorReply(429, _words(error), "rate_limit_error", code="rate_limit_exceeded", headers=headers)
        case RequestAborted():
            return ErrorReply(503, str(error), "server_error", code="request_aborted")
        case ValidationError():
            return _invalid(error)
        case _:
            log.error("unexpected %s", type(error).__name__, exc_info=error)
            return INTERNAL


def reply_to_http(error: HTTPException, request: Request) -> ErrorReply:
    path, headers = request.scope["path"], error.headers or {}
    match error.status_code:
        case 404:
            return ErrorReply(404, _words(not_found(path)), code="not_found")
        case 405:
            allowed = ", ".join(sorted(headers.get("Allow", "").split(", ")))  # Starlette keeps them in a set
            message = _words(not_allowed(request.method, path, allowed))
            return ErrorReply(405, message, code="method_not_allowed", headers={**headers, "Allow": allowed})
        case status:
            return ErrorReply(status, error.detail or HTTPStatus(status).phrase, headers=headers)


def _bounded(text: str, limit: int) -> str:
    """Messages quote the request, which may be long and contain what UTF-8 cannot encode."""
    text = text if len(text) <= limit else f"{text[:limit]}…"
    return text.encode(errors="backslashreplace").decode()


def _words(error: KvloomError) -> str:
    return f"{error} (hint: {error.hint})" if error.hint else str(error)


def _invalid(error: ValidationError) -> ErrorReply:
    """Name each invalid field. Invalid JSON is reported here too: pydantic parses the body."""
    if error.error_count() > _MAX_LISTED:  # formatting all of them takes seconds
        return ErrorReply(400, f"the body has {error.error_count():,} values of the wrong type or form")
    problems = error.errors(include_url=False, include_input=False, include_context=False)
    if problems[0]["type"] == "json_invalid":
        return ErrorReply(400, f"the body is not valid JSON: {problems[0]['msg']}", code="invalid_json")
    said = []
    for problem in problems[:_MAX_DETAILS]:
        place = ".".join(str(part) for part in problem["loc"])
        said.append(f"{place}: {problem['msg']}" if place else problem["msg"])
    if len(problems) > _MAX_DETAILS:
        said.append(f"and {len(problems) - _MAX_DETAILS} more")
    param = ".".join(str(part) for part in problems[0]["loc"]) or None
    return ErrorReply(400, "; ".join(said), param=param)
