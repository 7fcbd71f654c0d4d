"""prefill: tokens per second of one prompt, against the best peer at that length and against the machine's sgemm."""

from __future__ import annotations

from bench.comparison import Comparison
from bench.harness import Outcome
from bench.judging import streams_outcome

GROUPS = frozenset({"streams"})
GOALS = {512: 1.05, 2048: 1.1, 4096: 1.2, 8000: 1.3}
SHARE = 0.85


def judge(comparison: Comparison) -> Outcome:
    return streams_outcome(comparison, "prefill", GOALS, SHARE, "of the FLOP/s of sgemm")
