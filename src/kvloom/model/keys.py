"""Typed access to a model file's own settings, with errors that name the missing or invalid key."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kvloom.errors import ModelFileError, UnsupportedModel

_MOST = 1 << 28
_TINY, _HUGE = 1.2e-38, 3.4e38
"""The range of normal float32 numbers: models compute in float32."""


@dataclass(frozen=True, slots=True)
class Keys:
    """Settings of one model. ``origin`` names the file, ``prefix`` precedes every key (GGUF's architecture)."""

    values: Mapping[str, Any]
    origin: str
    prefix: str = ""

    def get(self, key: str, default: Any = None) -> Any:
        value = self.values.get(self.prefix + key)
        return default if value is None else value

    def with_defaults(self, defaults: Mapping[str, Any]) -> Keys:
        """The same with defaults for absent keys (not for null ones)."""
        return Keys({**defaults, **self.values}, self.origin, self.prefix)

    def need(self, key: str) -> Any:
        value = self.get(key)
        if value is None:
            raise ModelFileError(f"`{self.origin}` has no `{self.prefix}{key}`")
        return value

    def size(self, key: str, default: int | None = None, most: int = _MOST, least: int = 1) -> int:
        """A whole number from ``least`` to ``most``: a corrupt file must not cause huge allocations."""
        value = self.need(key) if default is None else self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise self.odd(key, f"a number from {least} to {most}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A finite number > 0."""
        value = self.need(key) if default is None else self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not _TINY <= value <= _HUGE:
            raise self.odd(key, "a finite positive number")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        value = self.get(key, default)
        if not isinstance(value, bool):
            raise self.odd(key, "true or false")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        value = self.need(key) if default is None else self.get(key, default)
        if not isinstance(value, str):
            raise self.odd(key, "a text")
        return value

    def section(self, key: str) -> Keys | None:
        """The object under ``key``, None when there is none."""
        value = self.get(key)
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise self.odd(key, "an object")
        return Keys(value, f"{self.origin}, {key}")

    def refuse(self, key: str, harmless: tuple[Any, ...] = (None, False)) -> None:
        """Raise UnsupportedModel when a feature that kvloom does not support is switched on."""
        value = self.get(key)
        if not isinstance(value, str | int | float | None) or value not in harmless:
            raise UnsupportedModel(
                f"`{self.origin}` sets `{self.prefix}{key}` to {_shown(value)}, which kvloom does not support"
            )

    def odd(self, key: str, expected: str) -> ModelFileError:
        """The error for the value of ``key``."""
        return ModelFileError(
            f"`{self.origin}`: `{self.prefix}{key}` should be {expected}, not {_shown(self.get(key))}"
        )


def _shown(value: Any) -> str:
    """Any value, shortened for a message."""
    return reprlib.repr(value)
