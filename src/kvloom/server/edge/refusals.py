"""Responses to connections whose request was never complete."""

from __future__ import annotations

from collections.abc import Iterable

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from kvloom.config import ServerConfig
from kvloom.server.errors import ErrorReply

INVALID = ErrorReply(400, "this is not valid HTTP/1.1", code="invalid_http")


def url_too_long(limits: ServerConfig) -> ErrorReply:
    return ErrorReply(414, f"the URL has more than {limits.max_url_bytes} bytes", code="url_too_long")


def headers_too_large(limits: ServerConfig) -> ErrorReply:
    said = f"the headers have more than {limits.max_header_bytes} bytes, or are more than {limits.max_headers}"
    return ErrorReply(431, said, code="headers_too_large")


def head_too_slow(limits: ServerConfig) -> ErrorReply:
    said = f"the headers did not arrive within {limits.header_seconds:g} seconds"
    return ErrorReply(408, said, code="request_timeout")


def body_too_slow(limits: ServerConfig) -> ErrorReply:
    said = f"the body stopped arriving for {limits.body_seconds:g} seconds, or arrives too slowly"
    return ErrorReply(408, said, code="request_timeout")


def too_many_connections(limits: ServerConfig) -> ErrorReply:
    said = f"all {limits.max_connections} connections are in use"
    return ErrorReply(503, said, "server_error", code="too_many_connections", headers={"Retry-After": "1"})


def raw_answer(reply: ErrorReply, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The whole response, after which the connection closes. ``headers``: those of every response."""
    response = reply.response()
    lines = [*headers, *response.raw_headers, (b"connection", b"close")]
    head = b"".join([name + b": " + value + b"\r\n" for name, value in lines])
    return STATUS_LINE[reply.status] + head + b"\r\n" + bytes(response.body)
