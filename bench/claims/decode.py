"""decode: tokens per second of one stream, against the best peer at that context and against the read bandwidth."""

from __future__ import annotations

from bench.comparison import Comparison
from bench.harness import Outcome
from bench.judging import StreamGoals, streams_outcome

_LARGE = StreamGoals({512: 1.4, 2048: 1.5}, 0.85)
GOALS = {
    "streams": StreamGoals({512: 1.6, 2048: 1.8, 4096: 2.0, 8000: 2.5}, 0.5),
    "streams-1b": _LARGE,
    "streams-1b-q4_0": _LARGE,
    "streams-3b": _LARGE,
    "streams-8b": _LARGE,
}
GROUPS = frozenset(GOALS)


def judge(comparison: Comparison) -> Outcome:
    return streams_outcome(comparison, "decode", GOALS, "of the read bandwidth, for weights and KV")
