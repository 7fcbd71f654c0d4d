"""decode: tokens per second of one stream, against the best peer at that context and against the read bandwidth."""

from __future__ import annotations

from bench.comparison import Comparison
from bench.harness import Outcome
from bench.judging import streams_outcome

GROUPS = frozenset({"streams"})
GOALS = {512: 1.6, 2048: 1.8, 4096: 2.0, 8000: 2.5}
SHARE = 0.5


def judge(comparison: Comparison) -> Outcome:
    return streams_outcome(comparison, "decode", GOALS, SHARE, "of the read bandwidth, for weights and KV")
