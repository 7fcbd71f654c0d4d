"""schema-suite: answers that are held to schemas which others wrote are valid, or refused before they begin.

Schemas of the JSON Schema Test Suite, of SchemaStore and Kubernetes (two of JSONSchemaBench's collections) and of other
packages (``bench.schemas``), whole and cut out of larger ones, are the form of answers over HTTP, greedy and sampled.
An answer that is cut by ``max_tokens`` is counted as that. ``jsonschema`` judges, formats included.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from bench.harness import Check, Outcome, at_least, at_most, note, worst_of
from bench.schemas.asking import Counts, ask_all
from bench.schemas.cases import cases_of, some_of
from bench.schemas.sources import SOURCES, NotFetched, Source, archive_of, documents
from bench.served import Served
from kvloom.model.files.store import pull

MODEL = "smollm2-135m-instruct"
SEED = 1
_MOST_REASONS = 12


def measure(quick: bool) -> Outcome:
    """Full: up to 400 schemas of each source, 96 tokens. Quick: 8, 48 tokens."""
    pull(MODEL)
    most, tokens = (8, 48) if quick else (400, 96)
    with Served(MODEL, "--kv-bytes", "512MiB") as served:
        found = {each.name: _asked(each, f"http://{served.host}:{served.port}", most, tokens) for each in SOURCES}
    return outcome(found, quick)


def outcome(found: dict[str, Counts | str], quick: bool) -> Outcome:
    """Of counts by source, or why there are none."""
    checks: list[Check] = []
    for name, counts in found.items():
        if isinstance(counts, str):
            checks.append(at_least(name, 0, 1, "sources", f"not fetched: {counts}"))
            continue
        judged = counts.verdicts["valid"] + counts.verdicts["invalid"]
        share = counts.verdicts["valid"] / judged if judged else 0.0
        checks.append(at_least(name, share, 1.0, "of the judged answers are valid", _remark(counts)))
        checks.append(at_most(f"{name}, faults", counts.verdicts["fault"], 0, "answers", "5xx, or none at all"))
    details = {name: counts if isinstance(counts, str) else _detail(counts) for name, counts in found.items()}
    return worst_of("schema-suite", checks, {"quick": quick, "sources": details})


def _asked(source: Source, url: str, most: int, tokens: int) -> Counts | str:
    try:
        archive = archive_of(source)
    except NotFetched as why:
        note(str(why))
        return str(why)
    cases = some_of(cases_of(documents(source, archive)), most, SEED)
    counts = ask_all(url, MODEL, cases, tokens)
    note(f"{source.name}: {_remark(counts)}")
    for told in counts.wrong:
        note(f"{told.verdict}: {told.case.name}, {told.way}: {told.said[:200]!r}")
    return counts


def _remark(counts: Counts) -> str:
    said = ", ".join(f"{number} {verdict}" for verdict, number in sorted(counts.verdicts.items()))
    return f"{counts.supported} of {counts.schemas} schemas supported; answers: {said}"


def _detail(counts: Counts) -> dict[str, Any]:
    reasons: Counter[str] = Counter()
    for words, number in counts.refusals.items():
        reasons[words[:160]] += number
    return {
        "schemas": counts.schemas,
        "supported": counts.supported,
        "answers": dict(counts.verdicts),
        "refusals": dict(reasons.most_common(_MOST_REASONS)),
        "wrong": [[told.case.name, told.way, told.verdict, told.said[:400]] for told in counts.wrong],
    }
