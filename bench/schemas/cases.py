"""From documents to schemas that a request can send: whole ones, and definitions cut out with all that they need."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from bench.schemas.sources import Json
from kvloom.engine.structured import MAX_BYTES

MOST_CUT_BYTES = 16 * 2**10
"""Of a definition with those that it needs: more is sent as part of a whole document, if at all."""

_HOLDERS = ("definitions", "$defs")
_TO_DEFINITION = re.compile(r"#/(definitions|\$defs)/([^/]+)")


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    schema: Json


def cases_of(documents: Iterable[tuple[str, Json]]) -> Iterator[Case]:
    """Every schema once, however often it is there."""
    seen: set[str] = set()
    for name, document in documents:
        for case in (Case(name, document), *_definitions(name, document)):
            text = json.dumps(case.schema, sort_keys=True)
            limit = MAX_BYTES if case.schema is document else MOST_CUT_BYTES
            if text not in seen and len(text) <= limit:
                seen.add(text)
                yield case


def some_of(cases: Iterable[Case], most: int | None, seed: int) -> list[Case]:
    """All of them, or so many, drawn at random and in their order."""
    found = list(cases)
    if most is None or most >= len(found):
        return found
    return [found[n] for n in sorted(random.Random(seed).sample(range(len(found)), most))]


def _definitions(name: str, document: Json) -> Iterator[Case]:
    for holder in _HOLDERS:
        held = document.get(holder)
        for key in held if isinstance(held, dict) else ():
            needed = _needed(document, (holder, key))
            if needed is not None:
                head = {"$schema": document["$schema"]} if isinstance(document.get("$schema"), str) else {}
                reference = key.replace("~", "~0").replace("/", "~1").replace("%", "%25")
                yield Case(f"{name}#{key}", head | needed | {"$ref": f"#/{holder}/{reference}"})


def _needed(document: Json, first: tuple[str, str]) -> Json | None:
    """The definitions that one needs, itself included. None when it refers to something that is no definition."""
    found: dict[str, Json] = {}
    waiting = [first]
    while waiting:
        holder, key = waiting.pop()
        held = document.get(holder)
        if not isinstance(held, dict) or key not in held:
            return None
        if key in found.setdefault(holder, {}):
            continue
        found[holder][key] = held[key]
        for reference in _references(held[key]):
            place = _TO_DEFINITION.fullmatch(reference)
            if place is None:
                return None
            waiting.append((place[1], unquote(place[2]).replace("~1", "/").replace("~0", "~")))
    return found


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key in ("$ref", "$dynamicRef", "$recursiveRef") and isinstance(value, str):
                yield value
            yield from _references(value)
    elif isinstance(node, list):
        for value in node:
            yield from _references(value)
