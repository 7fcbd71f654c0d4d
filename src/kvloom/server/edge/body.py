"""Reading a request's body: bounded, then parsed directly from bytes to a validated model."""

from __future__ import annotations

import codecs
from typing import TypeVar

from pydantic import BaseModel
from starlette.requests import Request

from kvloom.errors import RequestError
from kvloom.server.edge.weigh import refuse_heavy
from kvloom.server.errors import BodyTooLarge
from kvloom.server.lanes import LARGE, Lanes

Body = TypeVar("Body", bound=BaseModel)

_SLICE = 2**20
"""Bytes to decode at a time."""


async def read_body(request: Request, model: type[Body], max_bytes: int, lanes: Lanes) -> Body:
    """Read and validate a JSON body. Raises BodyTooLarge, RequestError or pydantic's ValidationError."""
    data = await _receive(request, max_bytes)
    if len(data) < LARGE:
        return _parse(data, model)  # faster than handing it to a thread
    return await lanes.run(lambda: _parse(data, model), len(data))


async def _receive(request: Request, max_bytes: int) -> bytearray:
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > max_bytes:
        raise _too_large(int(length), max_bytes)
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > max_bytes:
            raise _too_large(len(data), max_bytes)
    return data


def _parse(data: bytearray, model: type[Body]) -> Body:
    if not data:
        raise RequestError("the body is empty", hint="send a JSON object")
    refuse_heavy(data)
    return model.model_validate_json(_decoded(data))


def _decoded(data: bytearray) -> str:
    """Decoded in slices, so that other threads get the interpreter in between."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    parts, waiting = [], 0
    for start in range(0, len(data), _SLICE):
        try:
            parts.append(decoder.decode(data[start : start + _SLICE], final=start + _SLICE >= len(data)))
        except UnicodeDecodeError as error:
            raise RequestError(f"the body is not valid UTF-8 at byte {start - waiting + error.start}") from None
        waiting = len(decoder.getstate()[0])
    return "".join(parts)


def _too_large(size: int, limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"the body has {size} bytes or more, at most {limit} are read")
