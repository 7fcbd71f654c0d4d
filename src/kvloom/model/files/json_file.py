"""Untrusted JSON files."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from kvloom.errors import ModelFileError
from kvloom.model.reading import read_bytes


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a model directory. Raises ModelFileError."""
    return parse_object(read_bytes(path), path)


def parse_object(raw: bytes, path: Path) -> dict[str, Any]:
    """The object that ``raw``, read from ``path``, encodes in UTF-8. Raises ModelFileError, also for duplicate keys."""
    try:
        value = json.loads(raw.decode("utf-8-sig"), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:  # also for too deep nesting
        raise ModelFileError(f"cannot read `{path}`: {str(error)[:200]}") from error
    if not isinstance(value, dict):
        raise ModelFileError(f"`{path}` should hold a JSON object, not {type(value).__name__}")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        (twice, _), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"key `{twice[:80]}` occurs twice")
    return table
