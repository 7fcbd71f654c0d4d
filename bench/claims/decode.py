"""decode: tokens per second of one stream, against the best peer at that context and against the read bandwidth."""

from __future__ import annotations

from bench.cells import DENSE
from bench.comparison import Comparison
from bench.harness import Check, Outcome, at_least, worst_of
from bench.judging import against_peers, circumstances, goal_at, length_of, share_of_limit

GROUPS = frozenset({"streams"})
GOALS = {512: 1.6, 2048: 1.8, 4096: 2.0, 8000: 2.5}
SHARE = 0.5


def judge(comparison: Comparison) -> Outcome:
    checks: list[Check] = []
    figures = [name for name in comparison.figures("streams") if name.startswith("decode")]
    for figure in figures:
        checks += against_peers(comparison, "streams", [figure], goal_at(GOALS, length_of(figure)))
    for figure in figures if checks else []:
        share = share_of_limit(comparison, DENSE, figure)
        checks.append(at_least(f"{figure}, of the limit", share, SHARE, "of the read bandwidth, for weights and KV"))
    return worst_of("decode", checks, circumstances(comparison), comparison)
