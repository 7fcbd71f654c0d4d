"""Numbers of a schema that the library does not take as they are meant.

Counts are whole numbers to it only where they are written as such: 2, and not 2.0, which is the same.

Between two neighbouring whole numbers as bounds, with the one that is nearer to zero excluded, it allows that one
nonetheless: 0 where numbers are above 0 and at most 0.5, -2 where they are below -2 and at least -2.5.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

_DATA = ("const", "enum", "default", "examples")
"""Keywords whose values are no schemas."""
_NAMED = ("properties", "patternProperties", "$defs", "definitions")
"""Keywords whose members have names of the schema's own: these may be those of keywords."""
_COUNTS = ("minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties")


def with_whole_counts(schema: dict[str, Any]) -> dict[str, Any]:
    """``schema`` itself, its counts written as whole numbers where they are."""
    for each in _objects(schema):
        for name in _COUNTS:
            value = each.get(name)
            if isinstance(value, float) and _whole(value):
                each[name] = int(value)
    return schema


def not_held_to(schema: object) -> str | None:
    """What is wrong, of the first such place in a JSON schema. Members of an ``allOf`` count with what they are in."""
    for each in _objects(schema):
        parts = [each, *(part for part in _listed(each.get("allOf")) if isinstance(part, dict))]
        below = max(_numbers(parts, "exclusiveMinimum"), default=-math.inf)
        above = min(_numbers(parts, "exclusiveMaximum"), default=math.inf)
        most = min([above, *_numbers(parts, "maximum")])
        least = max([below, *_numbers(parts, "minimum")])
        if below == least >= 0 and _whole(below) and below < most < below + 1:
            return f"numbers above {below:g} and no greater than {most:g}"
        if above == most <= 0 and _whole(above) and above - 1 < least < above:
            return f"numbers below {above:g} and no less than {least:g}"
    return None


def _objects(schema: object) -> Iterator[dict[str, Any]]:
    """Every object in it, but for data."""
    waiting = [schema]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            yield each
            for name, value in each.items():
                if name in _NAMED and isinstance(value, dict):
                    waiting += value.values()
                elif name not in _DATA:
                    waiting.append(value)
        else:
            waiting += _listed(each)


def _listed(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _numbers(parts: list[Any], name: str) -> list[float]:
    found = (part.get(name) for part in parts)
    return [value for value in found if isinstance(value, int | float) and not isinstance(value, bool)]


def _whole(number: float) -> bool:
    return math.isfinite(number) and number == math.floor(number)
