"""Tiers under a simulated clock: what they save, what they cost, and how large they are worth having."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kvloom.errors import ConfigError
from kvloom.memory.arena import PAGE_METADATA_BYTES
from kvloom.memory.format import PageFormat
from kvloom.memory.keys import page_key, root_key
from kvloom.memory.tier.base import Fault, Place, StoredPage, TierFault
from kvloom.policy.tier_cost import TierCost
from kvloom.simulate.machines import MACHINES
from kvloom.simulate.plan import Tried
from kvloom.simulate.plan_tiers import TierSizes, knee, planned_tiers, sizes_for
from kvloom.simulate.simulation import Setting, simulate
from kvloom.simulate.tiers import SimulatedTier
from tests.unit.simulate.test_simulation import MACHINE, ROOMY, TIGHT, made, result

FAST = replace(MACHINE, tiers={"warm": TierCost(1e10, 1e-6), "disk": TierCost(1e9, 1e-4)})
SLOW = replace(MACHINE, tiers={"warm": TierCost(1e10, 1e-6), "disk": TierCost(1e4, 1.0)})
TRACE = made(1)


@pytest.mark.parametrize("tier", ["warm_bytes", "disk_bytes"])
def test_what_memory_has_no_room_for_comes_from_a_tier(tier: str) -> None:
    without = simulate(TRACE, FAST, Setting("lru", TIGHT))
    found = simulate(TRACE, FAST, Setting("lru", TIGHT, **{tier: ROOMY}))
    assert found == simulate(TRACE, FAST, Setting("lru", TIGHT, **{tier: ROOMY})), "the same twice"
    assert without.block_hits < 0.98 * found.block_hits <= found.endless_block_hits
    assert found.block_hits == pytest.approx(found.endless_block_hits, abs=0.01)
    assert found.ttft.mean < 0.8 * without.ttft.mean
    name = tier.removesuffix("_bytes")
    assert found.tier_tokens[name] > 0
    assert set(found.tier_tokens) == {"ram", name}
    assert set(without.tier_tokens) == {"ram"}


def test_a_tier_that_is_slower_than_computing_changes_little() -> None:
    without, found = (simulate(TRACE, SLOW, Setting("lru", TIGHT, disk_bytes=size)) for size in (0, ROOMY))
    assert found.ttft.mean < 1.1 * without.ttft.mean
    assert found.tier_tokens.get("disk", 0) == 0


def test_a_larger_tier_has_more() -> None:
    tokens = [
        simulate(TRACE, FAST, Setting("lru", TIGHT, warm_bytes=size)).tier_tokens.get("warm", 0)
        for size in (2**20, 4 * 2**20, 16 * 2**20)
    ]
    assert tokens == sorted(tokens)
    assert tokens[0] < tokens[-1]


def test_coarser_pages_take_the_time_of_all_that_they_stand_for() -> None:
    fine, coarse = (
        simulate(made(1, 16 * grain), FAST, Setting("lru", TIGHT, warm_bytes=ROOMY, disk_bytes=ROOMY))
        for grain in (1, 4)
    )
    assert coarse.block_hits == pytest.approx(fine.block_hits, abs=0.1)
    assert coarse.not_loaded == 0


def test_the_budget_of_a_simulated_tier_is_hard() -> None:
    fmt = PageFormat("full", (0,), 1, 16, 16, "float32")
    cost = fmt.page_bytes + PAGE_METADATA_BYTES
    tier, places = SimulatedTier("warm", 5 * cost + 10, [fmt]), []
    for number in range(9):
        place = Place(page_key(root_key(weights="w", formats="f"), [number] * 16), 0)
        places.append(place)
        tier.write(StoredPage(place, place.key, 0, (number,) * 16, memoryview(b"")))
        if number == 4:
            tier.read(places[0], (0,) * 16, memoryview(bytearray()))
        assert tier.usage().used_bytes == cost * min(number + 1, 5) <= tier.usage().budget_bytes
    assert [tier.holds(place) for place in places] == [True, *[False] * 4, *[True] * 4]
    with pytest.raises(TierFault) as caught:
        tier.read(places[1], (1,) * 16, memoryview(bytearray()))
    assert caught.value.fault is Fault.GONE
    assert tier.usage().dropped_pages == 4
    tier.clear()
    assert (tier.usage().used_bytes, tier.usage().pages) == (0, 0)
    with pytest.raises(ConfigError, match="cannot hold a page"):
        SimulatedTier("warm", cost - 1, [fmt])


def with_tier(size: int, ttft_s: float) -> Tried:
    base = result("lru", 1, ttft_s)
    return replace(base, setting=replace(base.setting, warm_bytes=size))


def test_the_knee_is_the_first_that_is_about_as_good() -> None:
    curve = [with_tier(size, ttft_s) for size, ttft_s in ((0, 9.0), (1, 2.0), (2, 1.04), (4, 1.0), (8, 1.0))]
    assert knee(curve).setting.warm_bytes == 2
    assert knee([with_tier(0, 1.0), with_tier(5, 0.99)]).setting.warm_bytes == 0


def test_tiers_are_planned_one_after_the_other() -> None:
    setting, ended = Setting("lru", TIGHT), []
    without = Tried(setting, simulate(TRACE, FAST, setting))
    sizes = TierSizes([2**20, ROOMY], [ROOMY])
    plan = planned_tiers(TRACE, FAST, without, sizes, on_end=lambda: ended.append(1))
    assert [each.setting.warm_bytes for each in plan.warm] == [0, 2**20, ROOMY]
    assert plan.disk[0] == knee(plan.warm)
    assert [each.setting.disk_bytes for each in plan.disk] == [0, ROOMY]
    assert plan.best.setting == Setting("lru", TIGHT, warm_bytes=ROOMY), "with all in warm memory a disk adds nothing"
    assert len(ended) == len(sizes) * len(TRACE.requests)
    none = planned_tiers(TRACE, FAST, without, TierSizes([], []))
    assert (none.warm, none.disk, none.best) == ((without,), (without,), without)


def test_sizes_end_where_the_trace_does() -> None:
    machine = MACHINES["llama-8b-h100"]()
    sizes = sizes_for(TRACE, machine, 2**40)
    blocks = len({number for request in TRACE.requests for number in request.blocks})
    assert sizes == sorted(sizes)
    assert sizes[-1] == pytest.approx(1.25 * blocks * 16 * 128 * 1024)
    assert sizes_for(TRACE, machine, 2**20) == [2**20]
    found = simulate(TRACE, machine, Setting("lru", 2**29, warm_bytes=sizes[-1]))
    assert found.block_hits == pytest.approx(found.endless_block_hits, abs=0.01)
