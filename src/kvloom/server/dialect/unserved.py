"""Fields outside our models: rejected by name, accepted as hints, or ignored and listed in a header."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import islice

from kvloom.errors import RequestError
from kvloom.server.dialect.field_table import HINTS, MESSAGE_HINTS, MESSAGE_REFUSED, REFUSED, SERVED, Json

IGNORED_HEADER = "x-kvloom-ignored"

_MAX_NAMES, _MAX_FIELDS = 16, 1000
_PLAIN = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def refuse_many(extra: Json, place: str) -> None:
    """Maximum number of fields in a body: each is looked up on the event loop."""
    if len(extra) > _MAX_FIELDS:
        raise RequestError(f"{place} has {len(extra):,} unsupported fields; at most {_MAX_FIELDS:,} are allowed")


def refuse(extra: Json) -> None:
    """Raise RequestError for the first unsupported field that would change the answer."""
    refuse_many(extra, "the body")
    for name, value in extra.items():
        known = REFUSED.get(name)
        if known is not None and not known.passes(value):
            some = "this value of " if known.neutral else ""
            raise RequestError(f"{some}`{name}` is not supported by this server", hint=known.instead, param=name)
        meant = _SPELLINGS.get(_bare(name))
        if meant not in (None, name) and value is not None:
            raise RequestError(f"`{name}` is not supported by this server", hint=f"did you mean `{meant}`?", param=name)


def refuse_in_message(extra: Json, index: int) -> None:
    """The same for a message, where only null and false are neutral."""
    refuse_many(extra, f"message {index}")
    for name, value in extra.items():
        if name in MESSAGE_REFUSED and value is not None and value is not False:
            raise RequestError(
                f"`{name}` in a message is not supported by this server",
                hint=MESSAGE_REFUSED[name],
                param=f"messages.{index}.{name}",
            )


def ignored(extra: Json) -> Iterator[str]:
    """Unknown fields of the body."""
    known = (REFUSED, HINTS)
    return (name for name, value in extra.items() if value is not None and not any(name in table for table in known))


def ignored_in_messages(extras: Iterable[Json]) -> Iterator[str]:
    known = (MESSAGE_REFUSED, MESSAGE_HINTS)
    for extra in extras:
        for name, value in extra.items():
            if value is not None and not any(name in table for table in known):
                yield f"messages.{name}"


def ignored_header(names: Iterable[str]) -> dict[str, str]:
    """``x-kvloom-ignored``: names, separated by commas; beyond 16, a note that there are more.

    Names that do not belong in a header, and very long ones, become ``?``.
    """
    shown = list(dict.fromkeys(name if _PLAIN.fullmatch(name) else "?" for name in islice(names, _MAX_FIELDS)))
    if not shown:
        return {}
    more = ["and more"] if len(shown) > _MAX_NAMES else []
    return {IGNORED_HEADER: ", ".join(shown[:_MAX_NAMES] + more)}


def _bare(name: str) -> str:
    return name.replace("_", "").replace("-", "").lower()


_SPELLINGS = {_bare(name): name for name in (*HINTS, *SERVED, *REFUSED)}
