"""``docs/clients.md``, from the newest filed result of the claim. ``python -m bench.clients.page`` writes it."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.clients.table import CLIENTS, FEATURES
from bench.filing import RESULTS
from kvloom.eval.report.markdown import table

PAGE = Path(__file__).parents[2] / "docs" / "clients.md"

_INTRODUCTION = """# Clients

What works with `kvloom serve`, tried with each client as it is published, in an environment of its own, over HTTP, on
SmolLM2-135M-instruct. A model of this size does not choose a tool by itself; where one has to be called, the client
requires it (`tool_choice`), and what is called is held to the tool's schema.

`make claim NAME=clients` tries all of them again (`QUICK=1`: the two official libraries), and this page is written from
its filed result by `python -m bench.clients.page`. What is done for each cell is in `bench/clients/scripts/`.
"""


def newest() -> Path | None:
    """The filed result of the last full run, of any machine."""
    filed = RESULTS.glob("*/*/claim-clients.json")
    return max(
        filed, key=lambda path: str(json.loads(path.read_text(encoding="utf-8"))["stamp"]["taken"]), default=None
    )


def written(result: Mapping[str, Any]) -> str:
    """The page about a result, as ``bench.filing`` files it."""
    outcome, stamp = result["outcome"], result["stamp"]
    clients: Mapping[str, Any] = outcome["details"]["clients"]
    parts = [
        _INTRODUCTION,
        f"**{outcome['value']} of {outcome['goal']}** work ({stamp['taken'][:10]}).\n",
        *_tables(clients),
        "## What the columns mean\n",
        *(f"- `{name}`: {meaning}" for name, meaning in FEATURES.items()),
        "",
        "Where a cell is empty, the client has no such feature, or it was not tried.\n",
        *_listed("What does not work", _failures(clients)),
        *_listed("Not run", (f"{name}: {each['not_run']}" for name, each in clients.items() if "not_run" in each)),
        *_listed("What to set", (f"{each.name}: {each.setting}" for each in CLIENTS if each.setting)),
    ]
    return "\n".join(parts).rstrip() + "\n"


def _tables(clients: Mapping[str, Any]) -> Iterator[str]:
    """Two, each with half of the features, so that they fit a page."""
    names = list(FEATURES)
    half = (len(names) + 1) // 2
    for columns in (names[:half], names[half:]):
        rows = [(_title(name, each), *(_mark(each, column) for column in columns)) for name, each in clients.items()]
        yield from table(("client", *(f"`{column}`" for column in columns)), rows)
        yield ""


def _title(name: str, client: Mapping[str, Any]) -> str:
    version = re.split("==|@", client["packages"][0])[-1]
    return f"{name} {version}"


def _mark(client: Mapping[str, Any], feature: str) -> str:
    if "not_run" in client:
        return "not run" if feature in client["features"] else ""
    cell = client["cells"].get(feature)
    return "" if cell is None else "yes" if cell["ok"] else "**no**"


def _failures(clients: Mapping[str, Any]) -> Iterator[str]:
    for name, client in clients.items():
        for feature, cell in client.get("cells", {}).items():
            if not cell["ok"]:
                yield f"{name}, `{feature}`: {cell['detail']}"


def _listed(title: str, lines: Iterator[str]) -> list[str]:
    found = [f"- {line}" for line in lines]
    return [f"## {title}\n", *found, ""] if found else []


def main() -> int:
    result = newest()
    if result is None:
        print("error: no result is filed\nhint: python -m bench.claim clients", file=sys.stderr)
        return 1
    PAGE.write_text(written(json.loads(result.read_text(encoding="utf-8"))), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
