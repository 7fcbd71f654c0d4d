"""Traces in the Mooncake format, one JSON object per line, and how to replay one.

    {"timestamp": 27482, "input_length": 6955, "output_length": 52, "hash_ids": [46, 47, ...]}

timestamp: milliseconds at which the request arrived; hash_ids: one per 512 prompt tokens, equal where the tokens up to
there are. Texts are not in a trace: every hash id stands for 512 random tokens, the same wherever it occurs.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kvloom.errors import TraceError

BLOCK_TOKENS = 512


@dataclass(frozen=True, slots=True)
class TraceRequest:
    """One line. arrival_s: seconds since the earliest that was read."""

    arrival_s: float
    input_length: int
    output_length: int
    hash_ids: tuple[int, ...]

    def prompt(self, vocab_size: int, special: int = 100) -> list[int]:
        """Its synthetic tokens."""
        low = special if vocab_size > 2 * special else 1
        tokens = [token for hash_id in self.hash_ids for token in _block(hash_id, low, vocab_size)]
        return tokens[: self.input_length]


def _block(hash_id: int, low: int, high: int) -> list[int]:
    rng = random.Random(hash_id)
    return [rng.randrange(low, high) for _ in range(BLOCK_TOKENS)]


def read_trace(path: Path, limit: int | None = None) -> list[TraceRequest]:
    """The first ``limit`` requests, by arrival. Raises TraceError with the line's number, or OSError."""
    requests: list[tuple[float, TraceRequest]] = []
    try:
        for number, fields in _objects(path):
            requests.append((_number(path, number, fields, "timestamp"), _request(path, number, fields)))
            if len(requests) == limit:
                break
    except UnicodeDecodeError as error:
        raise TraceError(f"{path}: not valid UTF-8 at byte {error.start}") from None
    if not requests:
        raise TraceError(f"{path}: no requests in it", hint="one JSON object per line")
    first_ms = min(arrival_ms for arrival_ms, _ in requests)
    since = [replace(request, arrival_s=(arrival_ms - first_ms) / 1000) for arrival_ms, request in requests]
    return sorted(since, key=lambda request: request.arrival_s)


def _objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                fields = json.loads(line)
            except ValueError as error:
                raise _bad(path, number, f"not valid JSON: {error}") from None
            if not isinstance(fields, dict):
                raise _bad(path, number, f"not a JSON object but {json.dumps(fields)[:40]}")
            yield number, fields


def _request(path: Path, number: int, fields: dict[str, Any]) -> TraceRequest:
    input_length = _count(path, number, fields, "input_length")
    output_length = _count(path, number, fields, "output_length")
    hash_ids = fields.get("hash_ids")
    if not isinstance(hash_ids, list) or any(type(each) is not int for each in hash_ids):
        raise _bad(path, number, "`hash_ids` must be a list of whole numbers")
    needed = -(-input_length // BLOCK_TOKENS)
    if len(hash_ids) != needed:
        raise _bad(
            path,
            number,
            f"{input_length} tokens take {needed} `hash_ids` of {BLOCK_TOKENS} tokens, there are {len(hash_ids)}",
        )
    return TraceRequest(0.0, input_length, output_length, tuple(hash_ids))


def _count(path: Path, number: int, fields: dict[str, Any], name: str) -> int:
    value = fields.get(name)
    if type(value) is not int or value < 1:
        raise _bad(path, number, f"`{name}` must be a whole number of at least 1, got {json.dumps(value)}")
    return value


def _number(path: Path, number: int, fields: dict[str, Any], name: str) -> float:
    value = fields.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise _bad(path, number, f"`{name}` must be a number of at least 0, got {json.dumps(value)}")
    return float(value)


def _bad(path: Path, number: int, what: str) -> TraceError:
    return TraceError(f"{path}, line {number}: {what}", hint="the format is that of Mooncake's traces")
