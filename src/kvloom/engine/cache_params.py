"""What a caller may ask of the cache for one request. How to pick tokens is said by ``SamplingParams``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from kvloom.errors import ParamsError

Matching = Literal["tokens", "pages"]
"""How finely stored KV is found: to the token, or in whole pages only, so that others' tails cannot be guessed token
by token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheParams:
    """What a request finds in the cache and leaves there. Answers are the same whatever it says.

    Raises ParamsError on construction when a value is out of range.

    salt: KV is shared only between equal salts. read: False looks nothing up; every position of the prompt is
    computed. write: False leaves nothing that could be found, while it runs or later; continuations of one prompt
    share its pages all the same. match: how finely stored KV is found.
    """

    salt: str | None = None
    read: bool = True
    write: bool = True
    match: Matching = "tokens"

    def __post_init__(self) -> None:
        if self.salt is not None and not _is_text(self.salt):
            raise ParamsError(f"salt must be a string, got {self.salt!r}", param="salt")
        for name, value in (("read", self.read), ("write", self.write)):
            if not isinstance(value, bool):
                raise ParamsError(f"{name} must be True or False, got {value!r}", param=name)
        if self.match not in get_args(Matching):
            allowed = " or ".join(repr(one) for one in get_args(Matching))
            raise ParamsError(f"match must be {allowed}, got {self.match!r}", param="match")


def _is_text(value: object) -> bool:
    """A string that can be encoded (lone surrogates cannot)."""
    return isinstance(value, str) and not any("\ud800" <= character <= "\udfff" for character in value)
