"""multi-turn: conversations that take turns and grow, end to end, against the best peer."""

from __future__ import annotations

from bench.comparison import Comparison
from bench.harness import Outcome, worst_of
from bench.judging import against_peers, circumstances

GROUPS = frozenset({"multi-turn"})
GOAL = 1.4


def judge(comparison: Comparison) -> Outcome:
    checks = against_peers(comparison, "multi-turn", comparison.figures("multi-turn"), GOAL)
    return worst_of("multi-turn", checks, circumstances(comparison), comparison)
