"""The schema of a tool's arguments, in whatever field a dialect has it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kvloom.errors import RequestError
from kvloom.server.dialect.fields import Json
from kvloom.server.pieces import NO_ARGUMENTS


def object_schema(schema: Json | None, param: str) -> Mapping[str, Any]:
    """Left out, a function takes no arguments. Raises RequestError when it is no object's."""
    found = schema or NO_ARGUMENTS
    if found.get("type", "object") != "object":
        raise RequestError("the schema of a tool's arguments must be an object's", param=param)
    return found
