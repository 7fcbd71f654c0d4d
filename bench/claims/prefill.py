"""prefill: tokens per second of one prompt, against the best peer at that length and against the machine's sgemm."""

from __future__ import annotations

from bench.cells import DENSE
from bench.comparison import Comparison
from bench.harness import Check, Outcome, at_least, worst_of
from bench.judging import against_peers, circumstances, goal_at, length_of, share_of_limit

GROUPS = frozenset({"streams"})
GOALS = {512: 1.05, 2048: 1.1, 4096: 1.2, 8000: 1.3}
SHARE = 0.85


def judge(comparison: Comparison) -> Outcome:
    checks: list[Check] = []
    figures = [name for name in comparison.figures("streams") if name.startswith("prefill")]
    for figure in figures:
        checks += against_peers(comparison, "streams", [figure], goal_at(GOALS, length_of(figure)))
    for figure in figures if checks else []:
        share = share_of_limit(comparison, DENSE, figure)
        checks.append(at_least(f"{figure}, of the limit", share, SHARE, "of the FLOP/s of sgemm"))
    return worst_of("prefill", checks, circumstances(comparison), comparison)
