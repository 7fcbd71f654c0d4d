"""Whether an answer has the form that was asked for, by a library that had no part in making it."""

from __future__ import annotations

import json
import re
from typing import Any, Literal

from jsonschema import (
    Draft4Validator,
    Draft6Validator,
    Draft7Validator,
    Draft201909Validator,
    Draft202012Validator,
    FormatChecker,
)
from jsonschema.protocols import Validator

from bench.schemas.sources import Json

Verdict = Literal["valid", "invalid", "length", "refused", "fault", "not judged"]

_DRAFTS: dict[str, type[Validator]] = {
    "draft-04": Draft4Validator,
    "draft-06": Draft6Validator,
    "draft-07": Draft7Validator,
    "2019-09": Draft201909Validator,
    "2020-12": Draft202012Validator,
}
_NAMED = ("properties", "patternProperties", "definitions", "$defs", "dependentSchemas", "dependencies")
"""Keywords whose members have names of the schema's own."""
_DATA = ("const", "enum", "default", "examples")


def verdict_on(schema: Json, text: str) -> Verdict:
    """Of an answer that ended by itself."""
    try:
        value = json.loads(text)
    except ValueError:
        return "invalid"
    asked = with_ascii_classes(schema)
    judge = _validator(str(schema.get("$schema", "")))(asked, format_checker=FormatChecker())
    try:
        return "valid" if judge.is_valid(value) else "invalid"
    except Exception:  # a pattern that Python's regular expressions do not know, or a reference that leads nowhere
        return "not judged"


def _validator(draft: str) -> type[Validator]:
    """Of the draft that a schema names, in whatever words."""
    named = [validator for name, validator in _DRAFTS.items() if name in draft]
    return named[0] if named else Draft202012Validator


def with_ascii_classes(schema: Any) -> Any:
    r"""The same, with patterns as ECMA 262 means them: there ``\w`` and ``\d`` are ASCII, in Python they are not.

    >>> with_ascii_classes({"properties": {"pattern": {"pattern": "^\\d$"}}})
    {'properties': {'pattern': {'pattern': '(?a:^\\d$)'}}}
    """
    if isinstance(schema, list):
        return [with_ascii_classes(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    return {name: _member(name, value) for name, value in schema.items()}


def _member(name: str, value: Any) -> Any:
    if name == "pattern" and isinstance(value, str):
        return _ascii(value)
    if name in _DATA:
        return value
    if name in _NAMED and isinstance(value, dict):
        spelled = _ascii if name == "patternProperties" else str
        return {spelled(key): with_ascii_classes(each) for key, each in value.items()}
    return with_ascii_classes(value)


def _ascii(pattern: str) -> str:
    """White space is Unicode's in both, so that a pattern with it has to stay as it is."""
    return pattern if re.search(r"\\s", pattern, re.IGNORECASE) else f"(?a:{pattern})"
