"""The tables of ``docs/http-api.md``, from the code. ``python -m tests.http_api_doc`` writes them into the page."""

from __future__ import annotations

import json
import re
from pathlib import Path

from kvloom.server.dialect.field_table import HINTS, MESSAGE_HINTS, MESSAGE_REFUSED, REFUSED, SERVED
from kvloom.server.dialect.openapi import openapi_document
from kvloom.server.dialect.schemas import ChatRequest, CompletionRequest

PAGE = Path(__file__).parents[1] / "docs" / "http-api.md"


def tables() -> dict[str, str]:
    """Heading to the whole table below it."""
    return {
        "Endpoints": _table("path", "method", "what it does", rows=_paths()),
        "Fields that are served": _table("field", "endpoints", "extension", "meaning", rows=_served()),
        "Hints": _table("field", "why it changes nothing", rows=HINTS.items()),
        "Fields that are refused": _table("field", "passes with", "instead", rows=_refused()),
        "Hints in messages": _table("field", "why it changes nothing", rows=MESSAGE_HINTS.items()),
        "Refused in messages": _table(
            "field", "instead", rows=((n, says or "") for n, says in MESSAGE_REFUSED.items())
        ),
    }


def written(page: str) -> str:
    """``page`` with its tables as the code has them."""
    for heading, table in tables().items():
        found = re.search(rf"^#+ {re.escape(heading)}\n", page, re.MULTILINE)
        assert found is not None, f"no section `{heading}`"
        below = page[found.end() :]
        page = page[: found.end()] + re.sub(r"(?:^\|.*\n)+", lambda _, t=table: t, below, count=1, flags=re.MULTILINE)
    return page


def _paths():
    for path, operations in openapi_document()["paths"].items():
        for method in operations.keys() - {"parameters"}:
            yield path, method.upper(), operations[method]["summary"]


def _served():
    models = {"chat": ChatRequest, "completions": CompletionRequest}
    for name, field in SERVED.items():
        where = [endpoint for endpoint, model in models.items() if name in model.model_fields]
        new = [endpoint for endpoint in where if models[endpoint].__name__ in field.extends]
        if where:
            yield name, ", ".join(where), ", ".join(new) if new != where else "yes", field.says


def _refused():
    for name, field in REFUSED.items():
        neutral = dict.fromkeys(f"`{json.dumps(value)}`" for value in field.neutral if not _same_int(value))
        yield name, ", ".join(neutral), field.instead or ""


def _same_int(value: object) -> bool:
    return isinstance(value, float)  # stands beside the whole number


def _table(*columns: str, rows) -> str:
    lines = [columns, ["---"] * len(columns), *((f"`{first}`", *rest) for first, *rest in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
