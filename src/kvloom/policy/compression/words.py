"""The words that a request, a command line or a file has for the parts of a method: their fields that have defaults."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

Word = int | float | str
FILE: Mapping[str, type] = {"kind": Path}
"""Metadata of a field that names a file, or none."""


def kinds_of(part: object) -> dict[str, type]:
    """The types of a part's words, by name; ``part``: the class or an instance.

    >>> from kvloom.policy.compression.adakv import AdaKv
    >>> kinds_of(AdaKv)
    {'floor': <class 'float'>}
    """
    fields = dataclasses.fields(part) if dataclasses.is_dataclass(part) else ()
    return {each.name: each.metadata.get("kind", type(each.default)) for each in fields if each.init}


def words_of(part: object) -> dict[str, Word]:
    """What a part would be asked for with.

    >>> from kvloom.policy.compression.adakv import AdaKv
    >>> words_of(AdaKv(0.5))
    {'floor': 0.5}
    """
    values = {name: getattr(part, name) for name in kinds_of(part)}
    said = {name: value for name, value in values.items() if value is not None}
    return {name: str(value) if isinstance(value, Path) else value for name, value in said.items()}
