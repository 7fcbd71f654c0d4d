"""What a caller may ask of the cache for one request. How to pick tokens is said by ``SamplingParams``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

from kvloom.errors import ParamsError
from kvloom.policy.events import DEFAULT_PRIORITY, Hints, with_priority

Matching = Literal["tokens", "pages"]
"""How finely stored KV is found: to the token, or in whole pages only, so that others' tails cannot be guessed token
by token."""


def _is_text(value: object) -> bool:
    """A string that can be encoded (lone surrogates cannot)."""
    return isinstance(value, str) and not any("\ud800" <= character <= "\udfff" for character in value)


def _takes(allowed: str, fits: Callable[[Any], bool]) -> dict[str, Any]:
    """Of a field: what it takes, in words, and whether a value is of that kind."""
    return {"allowed": allowed, "fits": fits}


_FLAG = _takes("True or False", lambda value: isinstance(value, bool))
_TEXT = _takes("a string", lambda value: value is None or _is_text(value))
_MATCHING = _takes("'tokens' or 'pages'", lambda value: value in get_args(Matching))
_PERCENT = _takes("a whole number from 0 to 100", lambda value: type(value) is int and 0 <= value <= 100)


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheParams:
    """What a request finds in the cache and leaves there. Answers are the same whatever it says.

    Raises ParamsError on construction when a value is out of range.

    salt: KV is shared only between equal salts. read: False looks nothing up; every position of the prompt is
    computed. write: False leaves nothing that could be found, while it runs or later; continuations of one prompt
    share its pages all the same. match: how finely stored KV is found. priority: what is stored is given up before
    anything of higher priority, once nobody uses it; what several requests use has the highest that one asked for.
    """

    salt: str | None = field(default=None, metadata=_TEXT)
    read: bool = field(default=True, metadata=_FLAG)
    write: bool = field(default=True, metadata=_FLAG)
    match: Matching = field(default="tokens", metadata=_MATCHING)
    priority: int = field(default=DEFAULT_PRIORITY, metadata=_PERCENT)

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if not each.metadata["fits"](value):
                allowed = each.metadata["allowed"]
                raise ParamsError(f"{each.name} must be {allowed}, got {value!r}", param=each.name)

    @property
    def hints(self) -> Hints:
        """What is told of everything that the request stores or uses."""
        return with_priority(self.priority)
