"""What answers cost is learned from steps: of an engine whose steps take known times, exactly that."""

from __future__ import annotations

import pytest

from kvloom.config import CacheConfig, EngineConfig
from kvloom.learn.decode_cost import learn_decode
from kvloom.model.kv_map import KvMap, LayerKv
from kvloom.policy.cost import PrefillCost
from kvloom.simulate.clock import SimulatedClock
from kvloom.simulate.model import Shape
from kvloom.simulate.simulation import simulated_engine
from kvloom.simulate.step_cost import StepCost


def test_known_costs_are_found() -> None:
    clock, cost = SimulatedClock(), StepCost(PrefillCost(1e-3, 1e-3, 1e-6), PrefillCost(5e-3, 1e-4, 2e-6))
    shape = Shape(KvMap((LayerKv(0, 2, 64, 64, 0.125),)), 4, 1000, 4096, "weights")
    config = EngineConfig(model="known", cache=CacheConfig(kv_bytes="64MiB"))
    engine = simulated_engine(shape, cost, config, lambda token: 0, clock)
    found = learn_decode(engine, clock)
    assert found.start_s == pytest.approx(5e-3)
    assert found.token_s == pytest.approx(1e-4)
    assert found.position_s == pytest.approx(2e-6)
    assert not engine.has_work
    assert engine.stats().cache.cached_pages == 0
    engine.check()
