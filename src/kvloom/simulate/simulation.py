"""A trace on the real engine under a simulated clock."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from kvloom.bench.replay import Replay
from kvloom.config import CacheConfig, EngineConfig, RetentionName
from kvloom.engine.engine import Engine
from kvloom.engine.factory import TierFactory, make_engine, no_tiers
from kvloom.engine.retention import make_retention
from kvloom.memory.format import PageFormat
from kvloom.policy.tier_cost import TierCost
from kvloom.simulate.clock import SimulatedClock
from kvloom.simulate.coarse import coarse_cost, coarse_shape, coarse_tier_cost
from kvloom.simulate.machines import Machine
from kvloom.simulate.model import NoAttend, Shape, SilentTokenizer, SimulatedModel, Unbacked
from kvloom.simulate.requests import Script, grain_of, requests_of
from kvloom.simulate.results import Results, Summary
from kvloom.simulate.step_cost import StepCost
from kvloom.simulate.tiers import SimulatedBackground, SimulatedTier
from kvloom.simulate.traces.trace import Trace


@dataclass(frozen=True, slots=True)
class Setting:
    """What is tried: a retention policy, and bytes for KV; in a warm tier and on disk too, 0: there is none."""

    retention: RetentionName
    kv_bytes: int
    warm_bytes: int = 0
    disk_bytes: int = 0

    def tiers(self, formats: Sequence[PageFormat]) -> list[SimulatedTier]:
        """Raises ConfigError."""
        sizes = {"warm": self.warm_bytes, "disk": self.disk_bytes}
        return [SimulatedTier(name, size, formats) for name, size in sizes.items() if size]


def simulated_engine(
    shape: Shape,
    cost: StepCost,
    config: EngineConfig,
    say: Callable[[int], int],
    clock: SimulatedClock,
    tier_factory: TierFactory = no_tiers,
    tier_costs: Mapping[str, TierCost] = MappingProxyType({}),
    grain: int = 1,
) -> Engine:
    """The engine over a model that only takes time, and memory of which only the addresses exist. Raises ConfigError.

    Its policy knows the cost of prefill, and so does the engine. ``tier_factory``: of simulated tiers; ``tier_costs``:
    of reading a page from each, by name. ``grain``: tokens that one stands for.
    """
    model = SimulatedModel(shape, lambda plan: clock.advance(cost.of(plan)), say)
    retention = make_retention(config.cache.retention, model, cost.prefill)
    attend = NoAttend()
    return make_engine(
        model,
        SilentTokenizer(),
        config,
        lambda arena: attend,
        retention,
        clock,
        cost.prefill,
        tier_factory,
        tier_costs,
        back=Unbacked,
        background=SimulatedBackground(clock, tier_costs, grain),
    )


def simulate(
    trace: Trace,
    machine: Machine,
    setting: Setting,
    speed: float = 1.0,
    on_end: Callable[[], None] = lambda: None,
) -> Summary:
    """Replay ``trace``, whose blocks become pages: the longer they are, the coarser (``simulate.coarse``).

    ``speed``: how many times faster than recorded requests arrive. ``on_end``: called for every request.
    Raises ConfigError.
    """
    grain, script, clock = grain_of(trace), Script(), SimulatedClock()
    shape, cost = coarse_shape(machine.shape, grain), coarse_cost(machine.cost, machine.scheduler.step_tokens, grain)
    tier_costs = {name: coarse_tier_cost(tier, grain) for name, tier in machine.tiers.items()}
    config = _config(machine, setting)
    engine = simulated_engine(shape, cost, config, script.say, clock, setting.tiers, tier_costs, grain)
    results = Results(cost.prefill, grain, on_end)
    seconds = Replay(engine, results, speed, clock.wait).run(requests_of(trace, script))
    return results.summary(seconds, engine.stats())


def _config(machine: Machine, setting: Setting) -> EngineConfig:
    cache = CacheConfig(kv_bytes=setting.kv_bytes, kv_dtype=machine.kv_dtype, retention=setting.retention)
    return EngineConfig(model=machine.name, threads=1, cache=cache, scheduler=machine.scheduler)
