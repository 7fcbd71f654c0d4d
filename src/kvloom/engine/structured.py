"""What form an answer must have: asked for with the request, and held to by ``kvloom.engine.grammar``."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from kvloom.errors import ParamsError

MAX_BYTES = 128 * 2**10
MAX_CHOICES = 1000
MAX_RULES = 500
"""Of a grammar, and references in a schema: the library follows them with its stack, and a long chain ends the process.
"""

Kind = Literal["json", "regex", "choice", "grammar"]

_HEAD = re.compile(r"\s*[!?]*[\w@.-]+\s*[:\[{(]")
_REFERENCE = re.compile(r"\$\w*ref|\\u00(?:24|72|65|66)", re.IGNORECASE)
"""Also with a letter of ``$ref`` written as an escape."""
_KINDS = ("json", "regex", "choice", "grammar", "json_object")


@dataclass(frozen=True, slots=True, kw_only=True)
class StructuredOutputsParams:
    """The form of an answer; names follow vLLM's. Exactly one of the first five is set, else ParamsError is raised.

    json: a JSON schema, as an object or its text. regex: of the whole answer, in the syntax of Rust's ``regex`` crate.
    choice: one of these texts. grammar: in Lark's or GBNF's notation. json_object: any JSON object.
    disable_any_whitespace: JSON without white space between its parts; whitespace_pattern: a regex of the white space
    that there may be, instead of at most 32 characters. lenient: keywords of a schema that cannot be held to are passed
    over, where they are refused otherwise.
    """

    json: str | Mapping[str, Any] | None = None
    regex: str | None = None
    choice: tuple[str, ...] | list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None
    disable_any_whitespace: bool = False
    whitespace_pattern: str | None = None
    lenient: bool = False

    def __post_init__(self) -> None:
        given = [name for name in _KINDS if getattr(self, name) not in (None, False)]
        if len(given) != 1:
            said = " and ".join(f"`{name}`" for name in given) if given else "none of them"
            raise _bad(f"structured_outputs takes one of {', '.join(_KINDS)}, got {said}")
        if self.choice is not None:
            self._check_choice(self.choice)
        for name in ("regex", "grammar", "whitespace_pattern"):
            text = getattr(self, name)
            if text is not None and (not isinstance(text, str) or not text):
                raise _bad(f"structured_outputs.{name} must be a text that is not empty")
        if self.json is not None and not isinstance(self.json, str | Mapping):
            raise _bad("structured_outputs.json must be a JSON schema, an object or its text")
        if len(self.source.encode(errors="replace")) > MAX_BYTES:
            raise _bad(f"structured_outputs.{self.kind} has more than {MAX_BYTES:,} bytes")
        if _rules(self.source) > MAX_RULES:
            raise _bad(f"structured_outputs.{self.kind} has more than {MAX_RULES} rules or references")

    @property
    def kind(self) -> Kind:
        """What ``source`` is."""
        if self.json is not None or self.json_object:
            return "json"
        return "regex" if self.regex is not None else "choice" if self.choice is not None else "grammar"

    @property
    def source(self) -> str:
        """Its text. Raises ParamsError when a schema is not JSON."""
        if self.json_object:
            return '{"type": "object"}'
        if self.json is not None:
            return self.json if isinstance(self.json, str) else _json_text(self.json)
        if self.choice is not None:
            return _json_text(list(self.choice))
        return self.regex or self.grammar or ""

    @staticmethod
    def _check_choice(choice: object) -> None:
        if not isinstance(choice, list | tuple) or not choice or len(choice) > MAX_CHOICES:
            raise _bad(f"structured_outputs.choice must be a list of 1 to {MAX_CHOICES:,} texts")
        if any(not isinstance(text, str) or not text for text in choice):
            raise _bad("every structured_outputs.choice must be a text that is not empty")


def _rules(source: str) -> int:
    """At least as many as there are rules and references in it."""
    heads = sum(_HEAD.match(line) is not None for line in source.splitlines())
    return max(heads, _REFERENCE.subn("", source)[1])


def _json_text(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, default=_plain)
    except (TypeError, ValueError, RecursionError) as error:
        raise _bad(f"structured_outputs is not JSON: {error}") from None


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a value of type {type(value).__name__}")


def _bad(message: str) -> ParamsError:
    return ParamsError(message, param="structured_outputs")
