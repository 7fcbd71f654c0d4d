"""What the library says of a form that it cannot hold to, for who sent the form: it speaks of options of its own."""

from __future__ import annotations

import re
from collections.abc import Callable

_MAX_WORDS = 600
_LENIENT = "leave them out, or send the schema as a `response_format` without `strict`, which passes over them"

_Said = Callable[[re.Match[str]], str]


def _keywords(found: re.Match[str]) -> str:
    names = re.findall(r'"([^"]*)"', found[1])
    return f"{', '.join(f'`{name}`' for name in names)} {'is' if len(names) == 1 else 'are'} not supported"


_CLEARER: tuple[tuple[re.Pattern[str], _Said, str | None], ...] = (
    (re.compile(r"Unimplemented keys: \[(.*?)\]"), _keywords, _LENIENT),
    (
        re.compile(r"oneOf constraints are not supported\. Enable 'coerce_one_of' option to approximate .*? anyOf"),
        lambda _: "`oneOf` is not supported where a value might fit several of its schemas",
        "use `anyOf`, or send the schema as a `response_format` without `strict`",
    ),
    (
        re.compile(r"Resource '(.*?)' is not present in a registry and retrieving it failed: Default retriever .*"),
        lambda found: f"a reference leads to `{found[1]}`, which is not in the schema",
        "send all that is referred to, in `$defs`",
    ),
    (re.compile(r"Unknown format: (\S+)"), lambda found: f"the format `{found[1]}` is not supported", _LENIENT),
)
"""What is replaced, and a hint."""


def clear_words(said: str) -> tuple[str, str | None]:
    """On one line, not too long; and a hint, where there is one.

    >>> clear_words('Unimplemented keys: ["else", "if"]')[0]
    '`else`, `if` are not supported'
    """
    said = " ".join(said.replace("<non-verbose/>", "").split())
    hint = None
    for pattern, clearer, advice in _CLEARER:
        said, count = pattern.subn(clearer, said)
        hint = advice if count else hint
    return (said if len(said) <= _MAX_WORDS else f"{said[:_MAX_WORDS]}..."), hint
