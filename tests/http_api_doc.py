"""The tables of ``docs/http-api.md``, from the code. ``python -m tests.http_api_doc`` writes them into the page."""

from __future__ import annotations

import json
import re
from pathlib import Path

from kvloom.server.dialect.anthropic import schemas as messages
from kvloom.server.dialect.anthropic.schemas import MessagesRequest
from kvloom.server.dialect.embeddings import schemas as embeddings
from kvloom.server.dialect.embeddings.schemas import EmbeddingsRequest
from kvloom.server.dialect.field_table import HINTS, MESSAGE_HINTS, MESSAGE_REFUSED, REFUSED, SERVED
from kvloom.server.dialect.openapi import openapi_document
from kvloom.server.dialect.responses import schemas as responses
from kvloom.server.dialect.responses.schemas import ResponsesRequest
from kvloom.server.dialect.schemas import ChatRequest, CompletionRequest

PAGE = Path(__file__).parents[1] / "docs" / "http-api.md"


def tables() -> dict[str, str]:
    """Heading to the whole table below it."""
    return {
        "Endpoints": _table("path", "method", "what it does", rows=_paths()),
        "Fields that are served": _table("field", "endpoints", "extension", "meaning", rows=_served()),
        "Hints": _table("field", "why it changes nothing", rows=HINTS.items()),
        "Fields that are refused": _table("field", "passes with", "instead", rows=_refused()),
        "Fields of `/v1/responses`": _table("field", "meaning", rows=_described(ResponsesRequest)),
        "Other fields of `/v1/responses`": _table("field", "passes with", "instead", rows=_ruled(responses.RULES)),
        "Fields of `/v1/messages`": _table("field", "meaning", rows=_described(MessagesRequest)),
        "Other fields of `/v1/messages`": _table("field", "passes with", "instead", rows=_ruled(messages.RULES)),
        "Fields of `/v1/embeddings`": _table("field", "meaning", rows=_described(EmbeddingsRequest)),
        "Other fields of `/v1/embeddings`": _table("field", "passes with", "instead", rows=_ruled(embeddings.RULES)),
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
        for method in sorted(operations.keys() - {"parameters"}):
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


def _described(model):
    return ((name, field.description) for name, field in model.model_fields.items())


def _ruled(rules):
    for name, field in rules.refused.items():
        neutral = ", ".join(dict.fromkeys(f"`{json.dumps(value)}`" for value in field.neutral))
        yield name, neutral, field.instead or ""
    for name, says in rules.hints.items():
        yield name, "anything", f"no effect: {says}"


def _same_int(value: object) -> bool:
    return isinstance(value, float)  # stands beside the whole number


def _table(*columns: str, rows) -> str:
    lines = [columns, ["---"] * len(columns), *((f"`{first}`", *rest) for first, *rest in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
