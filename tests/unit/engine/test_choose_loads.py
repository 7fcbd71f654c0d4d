"""What is loaded and what is computed: the best of all ways to divide a context, and what is believed of a tier."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from dict_tier import DictTier
from kvloom.engine.tiers.choose import first_page_to_load
from kvloom.engine.tiers.load import Wanted
from kvloom.memory.tier.base import Place
from kvloom.policy.cost import PrefillCost
from kvloom.policy.tier_cost import TierCost
from kvloom.policy.tier_rate import TierRate
from kvloom.segment import PageKey, Span, SpanSet

SIZE = 10_000
TIERS = {name: DictTier(name) for name in ("warm", "disk")}


def page(index: int, tier: str) -> Wanted:
    return Wanted(0, index, TIERS[tier], Place(PageKey(bytes([index])), 0), tuple(range(16)), SIZE)


def computing(cost: PrefillCost, gain: SpanSet, stop: int) -> float:
    return sum(cost.block(position, 1) for span in gain for position in span.positions() if position < stop)


@settings(max_examples=200, deadline=None)
@given(
    places=st.dictionaries(st.integers(0, 40), st.sampled_from(sorted(TIERS)), min_size=1),
    speeds=st.tuples(st.floats(1e4, 1e9), st.floats(1e4, 1e9)),
    position_s=st.sampled_from([0.0, 1e-6, 1e-4]),
)
def test_no_other_page_to_begin_at_is_better(
    places: dict[int, str], speeds: tuple[float, float], position_s: float
) -> None:
    wanted, cost = [page(index, tier) for index, tier in places.items()], PrefillCost(0.0, 1e-3, position_s)
    tiers = {name: TierCost(speed, 1e-4) for name, speed in zip(sorted(TIERS), speeds, strict=True)}
    gain = SpanSet.of([each.span for each in wanted])

    def total(first: int) -> float:
        loading = [
            sum(tiers[name].seconds(SIZE) for n, t in places.items() if n >= first and t == name) for name in tiers
        ]
        both = computing(cost, gain, 16 * first), max(loading)
        return max(both) + 0.5 * min(both)

    found, everything = first_page_to_load(wanted, gain, cost, tiers), computing(cost, gain, 10**6)
    best = min(map(total, places))
    if found is None:
        assert best > 0.9 * everything * (1 - 1e-9)
    else:
        assert total(found) <= min(best * (1 + 1e-9), 0.9 * everything * (1 + 1e-9))


def test_a_faster_tier_is_never_loaded_less_from() -> None:
    wanted, cost = [page(index, "disk") for index in range(32)], PrefillCost(0.0, 1e-3, 1e-6)
    gain, firsts = SpanSet((Span(0, 512),)), []
    for speed in (1e4, 1e5, 1e6, 3e6, 1e7, 1e8):
        first = first_page_to_load(wanted, gain, cost, {"disk": TierCost(speed, 0.0)})
        firsts.append(32 if first is None else first)
    assert firsts == sorted(firsts, reverse=True)
    assert firsts[0] == 32, "everything is computed"
    assert firsts[-1] == 0, "everything is loaded"


def test_a_tier_is_believed_to_be_as_slow_as_it_was_and_is_asked_again_in_time() -> None:
    assumed = TierCost(1e9, 1e-4)
    rate = TierRate(assumed)
    for _ in range(30):
        rate.took(10, 10**7, 5 * (10 * 1e-4 + 1e-2))
    assert abs(rate.cost.bytes_per_s / (assumed.bytes_per_s / 5) - 1) < 0.01
    rate.took(1, 10**6, 3600.0)
    assert rate.cost.bytes_per_s == assumed.bytes_per_s / 20, "no more than this, however long it hung"
    for _ in range(35):
        rate.passed_over()
    assert rate.cost.bytes_per_s > assumed.bytes_per_s / 11
    for _ in range(500):
        rate.passed_over()
    assert abs(rate.cost.bytes_per_s / assumed.bytes_per_s - 1) < 0.01
