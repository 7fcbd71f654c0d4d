"""What the cache did for a request: what was found and where, what was computed and why, and what that saved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from kvloom.engine.outputs import RequestMetrics
from kvloom.policy.cost import PrefillCost
from kvloom.segment import SpanSet, Why


def reused_by_tier(metrics: RequestMetrics) -> dict[str, int]:
    """Prompt tokens whose KV was found, by the tier that had it."""
    tiers: Counter[str] = Counter()
    for each in metrics.reused:
        tiers[each.tier] += len(each.span)
    return dict(sorted(tiers.items()))


def missed_by_reason(metrics: RequestMetrics, told: Callable[[Why], Why] = lambda why: why) -> dict[str, int]:
    """Prompt tokens that were computed, by reason. ``told``: what to say in place of a reason."""
    missed: Counter[str] = Counter()
    for miss in metrics.misses:
        missed[told(miss.why)] += len(miss.span)
    return dict(sorted(missed.items()))


def saved_s(metrics: RequestMetrics, cost: PrefillCost | None) -> float | None:
    """Seconds that computing what was reused would have taken, as prefill costs now; None: that is not known yet."""
    if cost is None:
        return None
    return cost.computing(SpanSet.of(each.span for each in metrics.reused))


def tokens_per_s(metrics: RequestMetrics) -> float | None:
    """Of continuation 0, after its first token; None with fewer than two tokens."""
    times = metrics.token_times_s
    return (len(times) - 1) / (times[-1] - times[0]) if times and times[-1] > times[0] else None
