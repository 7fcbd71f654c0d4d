"""What every claim returns, and how it reports progress."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass, field
from typing import Any, Protocol

from bench.comparison import Comparison


@dataclass(frozen=True, slots=True)
class Check:
    """One requirement of a claim. ``score``: at least 1 when it is met; half as good scores half as much."""

    name: str
    value: float
    goal: float
    unit: str
    score: float
    remark: str = ""

    @property
    def holds(self) -> bool:
        return self.score >= 1


def at_least(name: str, value: float, goal: float, unit: str, remark: str = "") -> Check:
    return Check(name, value, goal, unit, value / goal, remark)


def at_most(name: str, value: float, goal: float, unit: str, remark: str = "") -> Check:
    return Check(name, value, goal, unit, goal / value if value > 0 else float("inf"), remark)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One measured figure beside the one we publish. ``holds``: the claim is true here, details included.

    checks, comparison: what the figure was made from, for the report.
    """

    claim: str
    value: float
    goal: float
    unit: str
    holds: bool
    details: dict[str, Any] = field(default_factory=dict)
    checks: tuple[Check, ...] = ()
    comparison: Comparison | None = None

    def line(self) -> str:
        """One JSON object on one line."""
        head = {"claim": self.claim, "value": self.value, "goal": self.goal, "unit": self.unit, "holds": self.holds}
        return json.dumps(head | self.details, ensure_ascii=False)


def worst_of(claim: str, checks: list[Check], details: dict[str, Any], comparison: Comparison | None = None) -> Outcome:
    """The claim's value is its lowest score: 1 means that every check is met. Without a check nothing holds."""
    worst = min((check.score for check in checks), default=0.0)
    listed = {
        check.name: {"value": round(check.value, 4), "goal": check.goal, "unit": check.unit, "remark": check.remark}
        for check in checks
    }
    unit = "of the goal, in the worst cell"
    return Outcome(
        claim, round(worst, 3), 1.0, unit, worst >= 1, details | {"cells": listed}, tuple(checks), comparison
    )


class Measure(Protocol):
    """A claim's entry point. ``quick``: a smaller version, reported as such."""

    def __call__(self, quick: bool) -> Outcome: ...


class Judge(Protocol):
    """The entry point of a claim about a comparison with other engines, which several claims may share."""

    def __call__(self, comparison: Comparison) -> Outcome: ...


_STARTED = time.monotonic()


def note(text: str) -> None:
    """Progress, to stderr: stdout carries the result alone."""
    print(f"[{time.monotonic() - _STARTED:7.1f} s] {text}", file=sys.stderr, flush=True)
