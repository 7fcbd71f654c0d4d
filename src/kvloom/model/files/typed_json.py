"""From plain JSON to dataclasses, checked against the types that they declare."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

T = TypeVar("T")


def typed(kind: type[T], value: Any, where: str = "") -> T:
    """``value`` as a ``kind``: a dataclass of numbers, texts, None, tuples, dicts, dataclasses and paths.

    Raises ValueError that says where something is of another type.
    """
    built: T = _typed(kind, value, where)
    return built


def _typed(kind: Any, value: Any, where: str) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any or (origin is Literal and value in arguments):
        return value
    if origin in (Union, types.UnionType):
        return _first_that_fits(arguments, value, where)
    if origin is tuple and isinstance(value, list):
        return tuple(_typed(arguments[0], item, f"{where}[{index}]") for index, item in enumerate(value))
    if origin is dict and isinstance(value, dict):
        return {key: _typed(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if dataclasses.is_dataclass(kind) and isinstance(value, dict):
        return _dataclass(kind, value, where)
    if kind is float and type(value) in (int, float) and math.isfinite(value):
        return float(value)
    if (type(value) is kind and kind is not float) or (kind is Path and isinstance(value, Path)):
        return value
    raise ValueError(f"`{where}` should be {getattr(kind, '__name__', kind)}, not {str(value)[:40]!r}")


def _first_that_fits(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    if type(value) in kinds and type(value) is not float:  # whole numbers stay int where a float is accepted as well
        return value
    failures = []
    for kind in kinds:
        try:
            return _typed(kind, value, where)
        except ValueError as failure:
            failures.append(str(failure))
    raise ValueError(", or ".join(failures))


def _dataclass(kind: Any, value: dict[str, Any], where: str) -> Any:
    hints = _hints(kind)
    unknown = value.keys() - hints.keys()
    if unknown:
        raise ValueError(f"`{where}` has unknown fields: {', '.join(sorted(unknown))}")
    fields = {name: _typed(hints[name], item, f"{where}.{name}".lstrip(".")) for name, item in value.items()}
    try:
        return kind(**fields)
    except TypeError as error:  # one is missing
        raise ValueError(f"`{where}`: {error}") from error


@lru_cache(maxsize=32)
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)
