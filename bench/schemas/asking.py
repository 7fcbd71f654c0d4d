"""Asking a server for answers of a schema's form, and what comes of it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from bench.schemas.cases import Case
from bench.schemas.judge import Verdict, verdict_on

WAYS: dict[str, dict[str, Any]] = {"greedy": {"temperature": 0}, "sampled": {"temperature": 1.0, "seed": 1}}
PROMPT = "An example in JSON: "
_TOGETHER = 8
_PATIENCE_S = 300.0
_MOST_TOLD = 20


@dataclass(frozen=True, slots=True)
class Told:
    """``said``: the answer, or why there is none."""

    case: Case
    way: str
    verdict: Verdict
    said: str


@dataclass(slots=True)
class Counts:
    """``refusals``: by the server's words. ``wrong``: what should not be: invalid answers and faults."""

    schemas: int = 0
    supported: int = 0
    verdicts: Counter[Verdict] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    wrong: list[Told] = field(default_factory=list)

    def add(self, answers: list[Told]) -> None:
        """All answers to one schema."""
        self.schemas += 1
        self.supported += any(told.verdict not in ("refused", "fault") for told in answers)
        for told in answers:
            self.verdicts[told.verdict] += 1
            if told.verdict == "refused":
                self.refusals[told.said] += 1
            elif told.verdict in ("invalid", "fault"):
                self.wrong = [*self.wrong, told][:_MOST_TOLD]


def ask_all(url: str, model: str, cases: Iterable[Case], max_tokens: int) -> Counts:
    counts = Counts()
    with ThreadPoolExecutor(_TOGETHER) as pool:
        for answers in pool.map(lambda case: [_ask(url, model, case, way, max_tokens) for way in WAYS], cases):
            counts.add(answers)
    return counts


def _ask(url: str, model: str, case: Case, way: str, max_tokens: int) -> Told:
    body = {"model": model, "prompt": PROMPT, "max_tokens": max_tokens, "structured_outputs": {"json": case.schema}}
    sent = Request(f"{url}/v1/completions", json.dumps(body | WAYS[way]).encode(), {"Content-Type": "application/json"})
    try:
        with urlopen(sent, timeout=_PATIENCE_S) as reply:
            (choice,) = json.load(reply)["choices"]
    except HTTPError as error:
        with error:
            return Told(case, way, *_refusal(error.code, error.read()))
    except (OSError, HTTPException, ValueError) as error:
        return Told(case, way, "fault", f"{type(error).__name__}: {error}")
    if choice["finish_reason"] == "length":
        return Told(case, way, "length", choice["text"])
    return Told(case, way, verdict_on(case.schema, choice["text"]), choice["text"])


def _refusal(status: int, body: bytes) -> tuple[Verdict, str]:
    """A clear one names the field and says why."""
    try:
        error = json.loads(body)["error"]
        clear = status == 400 and error["param"].startswith("structured_outputs") and bool(error["message"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return "fault", f"status {status}"
    return ("refused" if clear else "fault"), f"{error['message']}" if clear else f"status {status}: {error['message']}"
