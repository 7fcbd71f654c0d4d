"""Refusing JSON that would take too long to parse: parsing holds the interpreter lock from start to end.

Long text costs almost nothing. The number of values matters: strings, lists and objects take about half a microsecond
each, numbers a tenth of that.
"""

from __future__ import annotations

import re

from kvloom.server.errors import BodyTooLarge

MAX_VALUES = 400_000
MAX_PARTS = 50_000
"""Of all values, those that are strings, lists or objects. Reading as many takes 30 to 50 ms."""

_IN_STRING = re.compile(rb'[^"\\]*(?:\\.[^"\\]*){0,1000}', re.DOTALL)


def refuse_heavy(data: bytes | bytearray, max_values: int = MAX_VALUES, max_parts: int = MAX_PARTS) -> None:
    """Raise BodyTooLarge if ``data`` has more values than are parsed at once. It need not be valid JSON."""
    if _count(data, b",") <= max_values and _count(data, b"{", b"[", b'"') <= max_parts:
        return  # most bodies, even if all of these are inside text
    values = parts = at = 0
    while at < len(data):
        quote = data.find(b'"', at)
        end = len(data) if quote < 0 else quote
        lists = data.count(b"{", at, end) + data.count(b"[", at, end)
        parts += lists + (quote >= 0)
        values += data.count(b",", at, end)
        if parts > max_parts:
            raise BodyTooLarge(f"the body has more than {max_parts:,} strings, lists and objects", hint=_HINT)
        if values > max_values:
            raise BodyTooLarge(f"the body has more than {max_values:,} values", hint=_HINT)
        at = end if quote < 0 else _end_of_string(data, quote + 1)


def _count(data: bytes | bytearray, *letters: bytes) -> int:
    """Counted in slices, so that other threads get the interpreter in between."""
    total = 0
    for start in range(0, len(data), _SLICE):
        for letter in letters:
            total += data.count(letter, start, start + _SLICE)
    return total


_SLICE = 2**20
_HINT = "send it in several requests"


def _end_of_string(data: bytes | bytearray, at: int) -> int:
    """The end of a string's closing quote, found in bounded steps, none of which holds the interpreter for long."""
    while at < len(data):
        found = _IN_STRING.match(data, at)
        end = found.end() if found is not None else len(data)
        if end >= len(data) or data[end] == 0x22:
            return end + 1
        at = end if end > at else len(data)
    return at
