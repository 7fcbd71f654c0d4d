"""gemma: a model with windows on most layers; prefill, decode and a batch, against the best peer that runs it."""

from __future__ import annotations

from bench.comparison import Comparison
from bench.harness import Outcome, worst_of
from bench.judging import against_peers, circumstances

GROUPS = frozenset({"gemma"})
GOAL = 1.25


def judge(comparison: Comparison) -> Outcome:
    checks = against_peers(comparison, "gemma", comparison.figures("gemma"), GOAL)
    return worst_of("gemma", checks, circumstances(comparison), comparison)
