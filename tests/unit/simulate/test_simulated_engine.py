"""The simulated engine decides what the real one decides, and time passes as its costs say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest

from kvloom.attend.cpu import CpuAttend
from kvloom.attend.observe import NOBODY, Observers
from kvloom.attend.plan import Plan
from kvloom.bench.replay import Replay
from kvloom.config import CacheConfig, EngineConfig, SchedulerConfig
from kvloom.engine.engine import Engine
from kvloom.engine.factory import make_engine
from kvloom.engine.outputs import RequestMetrics
from kvloom.engine.retention import make_retention
from kvloom.model.base import Indices, Scores
from kvloom.policy.cost import PrefillCost
from kvloom.policy.events import Block
from kvloom.policy.retention import POLICIES
from kvloom.segment import Why
from kvloom.simulate.clock import SimulatedClock
from kvloom.simulate.model import Shape
from kvloom.simulate.simulation import simulated_engine
from kvloom.simulate.step_cost import StepCost
from tiny import VOCAB, CharTokenizer, TinyModel

COST = StepCost(PrefillCost(2e-3, 1e-3, 1e-5), PrefillCost(5e-3, 1e-4, 1e-6))
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
    Replay(engine, log, sleep=clock.advance).run(turns)
    engine.check()
    return log


@pytest.mark.parametrize("windows", [(None, None), (None, 32)])
@pytest.mark.parametrize("retention", POLICIES)
def test_the_same_decisions_as_the_real_engine(retention: str, windows: tuple[int | None, ...]) -> None:
    turns, clock, model = conversations(3), SimulatedClock(), TimedModel(windows)
    model.spend = lambda plan: clock.advance(COST.of(plan))
    cache = CacheConfig(kv_bytes=900_000, kv_dtype="float32", slab_bytes=64 * 1024, retention=retention)
    config = EngineConfig(model="tiny", cache=cache, scheduler=SchedulerConfig(step_tokens=64))
    policy = make_retention(retention, model, COST.prefill)
    real = make_engine(
        model, CharTokenizer(), config, lambda arena: CpuAttend(arena.memory, 1), policy, clock, COST.prefill
    )
    wanted = replayed(real, clock, turns)

    shape = Shape(model.kv_map, model.query_heads, model.layer_parameters, model.context_length, model.weights_id)
    clock = SimulatedClock()
    found = replayed(simulated_engine(shape, COST, config, say, clock), clock, turns)
    assert found.events == wanted.events
    assert found.ended == wanted.ended
    assert {event[0] for event in found.events} == {"stored", "reused", "idle", "gone"}
    times = [event[-1] for event in found.events]
    assert times == sorted(times)
