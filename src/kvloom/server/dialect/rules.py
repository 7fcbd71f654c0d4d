"""Fields of a dialect's body that have no model: hints, and those that are refused because they change the answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from kvloom.errors import RequestError
from kvloom.server.dialect.field_table import Json, Refused
from kvloom.server.dialect.unserved import refuse_many


@dataclass(frozen=True, slots=True)
class FieldRules:
    """``hints`` say why a field changes nothing. What is in neither table is ignored, and named in a header."""

    refused: Mapping[str, Refused]
    hints: Mapping[str, str]

    def check(self, extra: Json) -> None:
        """Raises RequestError for the first field that would change the answer if it were supported."""
        refuse_many(extra, "the body")
        for name, value in extra.items():
            known = self.refused.get(name)
            if known is not None and not known.passes(value):
                some = "this value of " if known.neutral else ""
                message = f"{some}`{name}` is not supported by this server"
                raise RequestError(message, hint=known.instead, param=name)

    def ignored(self, extra: Json) -> Iterator[str]:
        known = (self.refused, self.hints)
        return (name for name, value in extra.items() if value is not None and not any(name in each for each in known))
