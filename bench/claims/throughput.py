"""throughput: output tokens per second of requests that arrive together, against the best peer."""

from __future__ import annotations

from bench.comparison import Comparison
from bench.harness import Outcome, worst_of
from bench.judging import against_peers, circumstances

GROUPS = frozenset({"together"})
GOAL = 1.4


def judge(comparison: Comparison) -> Outcome:
    checks = against_peers(comparison, "together", comparison.figures("together"), GOAL)
    return worst_of("throughput", checks, circumstances(comparison), comparison)
