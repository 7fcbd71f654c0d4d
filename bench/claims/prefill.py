"""prefill: tokens per second of one prompt, against the best peer at that length and against the machine's sgemm."""

from __future__ import annotations

from bench.comparison import Comparison
from bench.harness import Outcome
from bench.judging import StreamGoals, streams_outcome

GOALS = {
    "streams": StreamGoals({512: 1.05, 2048: 1.1, 4096: 1.2, 8000: 1.3}, 0.85),
    "streams-1b": StreamGoals({512: 1.7, 2048: 1.6}, 0.85),
    "streams-1b-q4_0": StreamGoals({512: 1.6, 2048: 1.5}, 0.85),
    "streams-3b": StreamGoals({512: 1.7, 2048: 1.6}, 0.85),
}
GROUPS = frozenset(GOALS)


def judge(comparison: Comparison) -> Outcome:
    return streams_outcome(comparison, "prefill", GOALS, "of the FLOP/s of sgemm")
