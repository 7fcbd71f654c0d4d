"""Requests made by schemathesis from the server's own OpenAPI document, sent one after the other.

Valid cases and cases that break the document, over every path; those that generate are asked more often, and the
model's name is filled in, or few cases would get as far as the engine. Statuses of 500 and more are faults, as are
errors of the server inside a stream, connections that break, and answers that take too long. A fault does not end the
run.
"""

from __future__ import annotations

import copy
import time
import warnings
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bench.harness import note

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy
    from schemathesis import Case

LIMIT_S = 60.0
_KEPT = 20
"""Faults that are kept in words."""
GENERATING = r"^/v1/(chat/completions|completions|responses|messages|embeddings)$"


@dataclass(slots=True)
class Tally:
    """``statuses``, ``paths``: how often each. ``slowest_s``: of all answers."""

    statuses: Counter[int] = field(default_factory=Counter)
    paths: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    fault_count: int = 0
    slowest_s: float = 0.0

    def fault(self, words: str) -> None:
        self.fault_count += 1
        if len(self.faults) < _KEPT:
            self.faults.append(words)
            note(f"fault: {words}")


def with_model(document: dict[str, Any], name: str) -> dict[str, Any]:
    """The document, in which ``model`` can be nothing but ``name``, and has to be said."""
    found = copy.deepcopy(document)
    for title, schema in found["components"]["schemas"].items():
        if title.endswith("Request") and "model" in schema["properties"]:
            schema["properties"]["model"] = {"const": name}
            schema["required"] = sorted({*schema.get("required", ()), "model"})
    for path in found["paths"].values():
        for parameter in path.get("parameters", ()):
            if parameter["name"] == "name":
                parameter["schema"] = {"enum": [name, "another"]}
    return found


def cases_of(document: dict[str, Any]) -> SearchStrategy[Case]:
    import schemathesis
    from hypothesis import strategies as st
    from schemathesis import GenerationMode

    schema = schemathesis.openapi.from_dict(document)
    good, bad = (schema.as_strategy(mode) for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE))
    generating = schema.include(path_regex=GENERATING).as_strategy(GenerationMode.POSITIVE)
    return st.one_of(good, bad, generating)


def fuzz(url: str, document: dict[str, Any], count: int, seed: int, limit_s: float = LIMIT_S) -> Tally:
    """Send ``count`` cases to the server at ``url``."""
    import requests
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import seed as seeded

    tally = Tally()
    with warnings.catch_warnings(), requests.Session() as session:
        warnings.simplefilter("ignore")  # hypothesis and schemathesis on schemas that are hard to fill

        @seeded(seed)
        @settings(
            max_examples=count,
            phases=[Phase.generate],
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(cases_of(document))
        def send(case: Case) -> None:
            if tally.statuses.total() < count:
                _send(case, url, session, limit_s, tally)

        send()
    return tally


def _send(case: Case, url: str, session: Any, limit_s: float, tally: Tally) -> None:
    import requests

    asked = f"{case.method} {case.formatted_path} {case.query!r} {str(case.body)[:1000]}"
    began = time.monotonic()
    try:
        response = case.call(base_url=url, session=session, timeout=limit_s)
    except (ValueError, requests.exceptions.InvalidHeader):  # a client would not send it
        return
    except Exception as error:
        tally.statuses[0] += 1
        tally.fault(f"{type(error).__name__} after {time.monotonic() - began:.1f} s: {asked}")
        return
    took = time.monotonic() - began
    tally.slowest_s = max(tally.slowest_s, took)
    tally.statuses[response.status_code] += 1
    tally.paths[case.path] += 1
    if tally.statuses.total() % 250 == 0:
        note(f"{tally.statuses.total()} cases, {dict(tally.statuses)}")
    if response.status_code >= 500 or b'"server_error"' in response.content:
        tally.fault(f"status {response.status_code}: {asked}: {response.text[:300]}")
    elif took > limit_s:
        tally.fault(f"{took:.1f} s: {asked}")
