"""throughput: output tokens per second of requests that arrive together, against the best peer."""

from __future__ import annotations

from bench.comparison import Comparison
from bench.harness import Outcome, worst_of
from bench.judging import against_peers, circumstances, named_by_group

GOALS = {"together": 1.4, "together-1b": 1.7, "together-1b-q4_0": 1.7, "together-3b": 1.7}
GROUPS = frozenset(GOALS)


def judge(comparison: Comparison) -> Outcome:
    checks = [
        check
        for group, goal in GOALS.items()
        for check in named_by_group(against_peers(comparison, group, comparison.figures(group), goal), group)
    ]
    return worst_of("throughput", checks, circumstances(comparison), comparison)
