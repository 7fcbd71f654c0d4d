"""What every claim returns, and how it speaks while it works."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Outcome:
    """One measured figure beside the one we publish. ``holds``: the claim is true here, details included."""

    claim: str
    value: float
    goal: float
    unit: str
    holds: bool
    details: dict[str, Any] = field(default_factory=dict)

    def line(self) -> str:
        """One JSON object on one line."""
        head = {"claim": self.claim, "value": self.value, "goal": self.goal, "unit": self.unit, "holds": self.holds}
        return json.dumps(head | self.details, ensure_ascii=False)


class Measure(Protocol):
    """A claim's entry point. ``quick``: a smaller version that is honest about being smaller."""

    def __call__(self, quick: bool) -> Outcome: ...


_STARTED = time.monotonic()


def note(text: str) -> None:
    """Progress, to stderr: stdout carries the result alone."""
    print(f"[{time.monotonic() - _STARTED:7.1f} s] {text}", file=sys.stderr, flush=True)
