"""``docs/metrics.md`` from the registry of a server. ``python -m tests.metrics_doc`` writes it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kvloom.server.admin.metrics import Metrics
from tests.generated_doc import Generated, cell, table

_OURS = {"le"}
"""Labels of buckets."""


def page() -> Generated:
    # Here: tests import one another by names that are on pytest's path.
    from dict_tier import DictTier
    from tests.server.echo_engine import EchoEngine

    engine = EchoEngine(tiers=[DictTier()])
    try:
        families = list(Metrics(engine).registry.collect())
    finally:
        engine.close()
    return Generated("metrics.md", "metrics_doc", "\n".join(_sections(families)))


def _sections(families: list[Any]) -> Iterator[str]:
    by = {
        "Names of vLLM": "vllm:",
        "Names of kvloom": "kvloom:",
        "Others": "http_",
    }
    assert all(family.name.startswith(tuple(by.values())) for family in families)
    for heading, prefix in by.items():
        yield f"## {heading}\n"
        rows = sorted(_row(family) for family in families if family.name.startswith(prefix))
        yield table("metric", "type", "labels", "meaning", rows=rows)


def _row(family: Any) -> tuple[str, str, str, str]:
    """A counter is scraped under its name with ``_total``."""
    name = f"{family.name}_total" if family.type == "counter" else family.name
    labels = [*getattr(family, "_labelnames", ()), *(label for sample in family.samples for label in sample.labels)]
    told = ", ".join(f"`{label}`" for label in dict.fromkeys(labels) if label not in _OURS)
    return f"`{name}`", family.type, told, cell(family.documentation)


if __name__ == "__main__":
    sys.path.append(str(Path(__file__).parent))
    page().write()
