"""What of that which tiers hold to load, and what to compute all the same: whichever the costs say is faster.

What comes first in a context is cheap to compute, and loading costs the same everywhere: so if anything is computed, it
is the beginning. Both go on at once, and the end waits for both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kvloom.engine.tiers.load import Wanted
from kvloom.memory.format import PAGE_TOKENS
from kvloom.policy.cost import PrefillCost
from kvloom.policy.tier_cost import TierCost
from kvloom.segment import SpanSet

_SHARED = 0.5
"""Of what takes less time, computing or loading, so much is not hidden behind the other: they share cores and memory
bandwidth."""

_WORTH = 0.9
"""Loading is begun where it is expected to take at most this part of the time: costs are estimates, and a load that
fails costs its time."""


def first_page_to_load(
    wanted: Sequence[Wanted], gain: SpanSet, cost: PrefillCost, tiers: Mapping[str, TierCost]
) -> int | None:
    """The best number of a page to load from on, among those ``wanted``, in any order; None: compute everything.

    ``gain``: what need not be computed if all of them are loaded. ``tiers``: cost of a page, by name.
    """
    indices = sorted({each.index for each in wanted})
    compute = _computing(indices, gain, cost)
    load = _loading(indices, wanted, tiers)
    totals = [max(c, r) + _SHARED * min(c, r) for c, r in zip(compute, load, strict=True)]
    best = min(range(len(totals)), key=totals.__getitem__)
    return indices[best] if best < len(indices) and totals[best] <= _WORTH * compute[-1] else None


def _computing(indices: Sequence[int], gain: SpanSet, cost: PrefillCost) -> list[float]:
    """Seconds of computing what lies before each of these pages; at last, of everything."""
    seconds, spent = [], 0.0
    spans = iter(gain)
    span = next(spans, None)
    for index in indices:
        stop = index * PAGE_TOKENS
        while span is not None and span.stop <= stop:
            spent += cost.block(span.start, len(span))
            span = next(spans, None)
        inside = 0.0 if span is None or span.start >= stop else cost.block(span.start, stop - span.start)
        seconds.append(spent + inside)
    rest = [] if span is None else [span, *spans]
    return [*seconds, spent + sum(cost.block(each.start, len(each)) for each in rest)]


def _loading(indices: Sequence[int], wanted: Sequence[Wanted], tiers: Mapping[str, TierCost]) -> list[float]:
    """Seconds of loading each of these pages and all behind it; at last, of nothing. Tiers are read at once."""
    by_index: dict[int, list[Wanted]] = {}
    for each in wanted:
        by_index.setdefault(each.index, []).append(each)
    seconds, spent = [0.0], dict.fromkeys(tiers, 0.0)
    for index in reversed(indices):
        for each in by_index[index]:
            spent[each.tier.name] += tiers[each.tier.name].seconds(each.size)
        seconds.append(max(spent.values()))
    return seconds[::-1]
