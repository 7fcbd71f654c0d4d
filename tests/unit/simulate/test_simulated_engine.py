"""The simulated engine decides what the real one decides, and time passes as its costs say."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest

from dict_tier import DictTier
from kvloom.attend.cpu import CpuAttend
from kvloom.attend.observe import NOBODY, Observers
from kvloom.attend.plan import BySequence, Contiguous, Group, Part, Plan
from kvloom.bench.replay import Replay
from kvloom.config import CacheConfig, EngineConfig, SchedulerConfig
from kvloom.engine.engine import Engine
from kvloom.engine.factory import TierFactory, make_engine, no_tiers
from kvloom.engine.outputs import RequestMetrics
from kvloom.engine.retention import make_retention
from kvloom.memory.format import PageFormat
from kvloom.model.base import Indices, Scores
from kvloom.policy.cost import PrefillCost
from kvloom.policy.events import Block
from kvloom.policy.retention import POLICIES
from kvloom.policy.tier_cost import TierCost
from kvloom.segment import Why
from kvloom.simulate.clock import SimulatedClock
from kvloom.simulate.model import Shape
from kvloom.simulate.simulation import simulated_engine
from kvloom.simulate.step_cost import StepCost
from kvloom.simulate.tiers import SimulatedBackground, SimulatedTier
from tiny import VOCAB, CharTokenizer, TinyModel

COST = StepCost(PrefillCost(2e-3, 1e-3, 1e-5), PrefillCost(5e-3, 1e-4, 1e-6))
TIER_COSTS = {"warm": TierCost(2e8, 1e-4), "disk": TierCost(2e7, 1e-3)}
Event = tuple[object, ...]


def say(token: int) -> int:
    return (7 * token + 3) % VOCAB


class TimedModel(TinyModel):
    """Computes as ever, but takes the time and says the words of the simulated one."""

    spend: Callable[[Plan], None]

    def scores(
        self, tokens_T: Indices, plan: Plan, attend: object, rows_R: Indices, observers: Observers = NOBODY
    ) -> Scores:
        self.spend(plan)
        found = super().scores(tokens_T, plan, attend, rows_R, observers)
        return Scores(found.logits_RV, [say(token) for token in tokens_T[rows_R].tolist()])


@dataclass
class Log:
    """All that the ledger tells its listeners, and how requests ended."""

    events: list[Event] = field(default_factory=list)
    ended: list[Event] = field(default_factory=list)

    def stored(self, block: Block, now: float) -> None:
        self.events.append(("stored", block.page, block.key, block.position, now))

    def reused(self, block: Block, now: float) -> None:
        self.events.append(("reused", block.page, block.key, block.position, now))

    def idle(self, block: Block, now: float) -> None:
        self.events.append(("idle", block.page, block.key, block.position, now))

    def gone(self, block: Block, why: Why, now: float) -> None:
        self.events.append(("gone", block.page, block.key, why, now))

    def add(self, request: Turn, metrics: RequestMetrics, late_s: float) -> None:
        spans = tuple(each.span for each in metrics.reused), tuple(metrics.misses)
        self.ended.append((request.arrival_s, late_s, spans, tuple(metrics.token_times_s), metrics.preemptions))

    def refuse(self, request: Turn) -> None:
        self.ended.append((request.arrival_s, "refused"))


@dataclass(frozen=True)
class Turn:
    arrival_s: float
    tokens: tuple[int, ...]
    output_length: int

    @property
    def input_length(self) -> int:
        return len(self.tokens)

    def prompt(self, vocab_size: int) -> list[int]:
        return list(self.tokens)


def conversations(seed: int) -> list[Turn]:
    """Some that grow, with the answers that are given, all beginning alike; one that never fits."""
    rng, turns = np.random.default_rng(seed), [Turn(0.2, (1,) * 600, 2)]
    for _ in range(8):
        now, said = float(rng.uniform(0, 4)), [5] * 20
        for _ in range(int(rng.integers(2, 5))):
            said += rng.integers(1, VOCAB, int(rng.integers(5, 70))).tolist()
            count = int(rng.integers(1, 12))
            turns.append(Turn(now, tuple(said), count))
            for _ in range(count):
                said.append(say(said[-1]))
            now += float(rng.uniform(0.1, 3))
    return sorted(turns, key=lambda turn: turn.arrival_s)


def replayed(engine: Engine, clock: SimulatedClock, turns: list[Turn]) -> Log:
    log = Log()
    engine.ledger.events.listeners.append(log)
    Replay(engine, log, sleep=clock.wait).run(turns)
    engine.check()
    return log


Windows = tuple[int | None, ...]


def config_of(retention: str, kv_bytes: int) -> EngineConfig:
    cache = CacheConfig(kv_bytes=kv_bytes, kv_dtype="float32", slab_bytes=64 * 1024, retention=retention)
    return EngineConfig(model="tiny", cache=cache, scheduler=SchedulerConfig(step_tokens=64))


def real_engine(config: EngineConfig, windows: Windows, clock: SimulatedClock, tiers: TierFactory = no_tiers) -> Engine:
    """It computes, and holds and moves real bytes, in the time that the simulated one is said to take."""
    model = TimedModel(windows)
    model.spend = lambda plan: clock.advance(COST.of(plan))
    return make_engine(
        model,
        CharTokenizer(),
        config,
        lambda arena: CpuAttend(arena.memory, 1),
        make_retention(config.cache.retention, model, COST.prefill),
        clock,
        COST.prefill,
        tiers,
        TIER_COSTS,
        background=SimulatedBackground(clock, TIER_COSTS),
    )


def shape_of(windows: Windows) -> Shape:
    model = TinyModel(windows)
    return Shape(model.kv_map, model.query_heads, model.layer_parameters, model.context_length, model.weights_id)


@pytest.mark.parametrize("windows", [(None, None), (None, 32)])
@pytest.mark.parametrize("retention", POLICIES)
def test_the_same_decisions_as_the_real_engine(retention: str, windows: Windows) -> None:
    turns, clock, config = conversations(3), SimulatedClock(), config_of(retention, 900_000)
    wanted = replayed(real_engine(config, windows, clock), clock, turns)
    clock = SimulatedClock()
    found = replayed(simulated_engine(shape_of(windows), COST, config, say, clock), clock, turns)
    assert found.events == wanted.events
    assert found.ended == wanted.ended
    assert {event[0] for event in found.events} == {"stored", "reused", "idle", "gone"}
    times = [event[-1] for event in found.events]
    assert times == sorted(times)


@pytest.mark.parametrize("windows", [(None, None), (None, 32)])
@pytest.mark.parametrize("retention", ["lru", "asymcache"])
@pytest.mark.parametrize("names", [("warm",), ("disk",), ("warm", "disk")])
def test_the_same_decisions_with_tiers(retention: str, windows: Windows, names: tuple[str, ...]) -> None:
    turns, clock, config = conversations(3), SimulatedClock(), config_of(retention, 400_000)
    real = real_engine(config, windows, clock, lambda formats: [DictTier(name) for name in names])
    wanted = replayed(real, clock, turns)
    clock = SimulatedClock()
    engine = simulated_engine(
        shape_of(windows),
        COST,
        config,
        say,
        clock,
        lambda formats: [SimulatedTier(name, 2**40, formats) for name in names],
        TIER_COSTS,
    )
    found = replayed(engine, clock, turns)
    assert found.events == wanted.events
    assert found.ended == wanted.ended
    ours, theirs = engine.stats().cache, real.stats().cache
    assert ours.hit_tokens_by_tier == theirs.hit_tokens_by_tier
    for name in names:
        assert ours.tiers[name].loaded_pages == theirs.tiers[name].loaded_pages
        assert ours.tiers[name].pages == theirs.tiers[name].pages > 0
    assert sum(tier.loaded_pages for tier in ours.tiers.values()) > 3


@pytest.mark.parametrize(("shared", "pages"), [(256, 16 + 2 * 2), (0, 2 * 18)])
def test_what_answers_share_is_read_once(shared: int, pages: int) -> None:
    clock, config = SimulatedClock(), config_of("lru", 4_000_000)
    engine = simulated_engine(shape_of((None, None)), COST, config, say, clock)
    first, second = ((1,) * shared + (own,) * (272 - shared) for own in (5, 6))
    turns = [Turn(0.0, first[:256], 1), Turn(9.0, first, 24), Turn(9.0, second, 24)]
    times = replayed(engine, clock, turns).ended[-1][3]
    assert isinstance(times, tuple)
    expected_s = COST.decode.step(2, round(2 * 276 * pages / (2 * 18)))
    assert times[2] - times[1] == pytest.approx(expected_s, abs=1e-5)


def test_counting_what_is_shared_takes_no_memory_by_page_numbers() -> None:
    """They are as large as memory: of one for each page, a simulated terabyte would not fit this machine."""
    fmt, pages = PageFormat("full", (0,), 1, 8, 8, "float32"), np.array([2**31 - 1, 5, 2**31 - 1, 6], dtype=np.int32)
    part = Part(fmt, BySequence(np.array([0, 2, 4], dtype=np.int32)), Contiguous(np.zeros(4, dtype=np.int32)), pages)
    bounds, positions = np.array([0, 1, 2], dtype=np.int32), np.array([31, 31], dtype=np.int32)
    tracemalloc.start()
    seconds = COST.of(Plan(positions, bounds, (Group(None, (part,)),), ()))
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 2**20
    assert seconds == pytest.approx(COST.decode.step(2, round(2 * 31 * 3 / 4)))
