"""agent-hints: what agents gain by saying what they come back to, on the same trace with and without.

Agents that call tools share a machine with small requests that nobody comes back to, and KV memory for a part of what
all of them store. With hints, an agent names its session, and a turn that ends with a tool call has priority 60 and a
``ttl_s`` of a minute; the small requests have priority 40. Without, nobody says anything. Both are served by the same
policy, the default one: first simulated, with the costs of steps that are measured in the same run, then by the real
engine, for which waiting takes no time. The claim is the mean time to the first token of turns that go on from an
earlier one, without hints over with them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import geometric_mean

import numpy as np

from bench.claims.simulator import LOAD, Asked, SkippingClock, arriving, step_cost
from bench.drive import ModelEngines
from bench.harness import Outcome, at_least, note, worst_of
from kvloom.bench.replay import Replay
from kvloom.config import DEFAULT_KV_DTYPE, DEFAULT_RETENTION, CacheConfig, EngineConfig
from kvloom.engine.build import build
from kvloom.engine.cache_params import CacheParams
from kvloom.engine.engine import Engine
from kvloom.engine.factory import make_engine
from kvloom.engine.outputs import RequestMetrics
from kvloom.engine.retention import make_retention
from kvloom.model.files.store import pull
from kvloom.simulate.clock import SimulatedClock
from kvloom.simulate.model import Shape
from kvloom.simulate.simulation import simulated_engine
from kvloom.simulate.step_cost import StepCost
from kvloom.simulate.traces.made_agents import MadeAgents
from kvloom.simulate.traces.trace import Request, Trace, ordered

MODEL = "smollm2-135m-instruct"
GOAL, SHARE = 1.05, 0.08
KEPT_S = 60.0
SIDE_SESSION = -1


@dataclass(frozen=True, slots=True)
class Hinted(Asked):
    """A request of a trace, with what it says of the cache. ``resumed``: it goes on from an earlier turn."""

    resumed: bool
    cache: CacheParams


@dataclass(slots=True)
class Resumed:
    """Hears times to the first token of turns that go on, and how much of their prompts was found."""

    ttft_s: list[float]
    cached: int = 0
    asked: int = 0

    def add(self, request: Hinted, metrics: RequestMetrics, late_s: float) -> None:
        if request.resumed and metrics.ttft_s is not None:
            self.ttft_s.append(late_s + metrics.ttft_s)
            self.cached += metrics.cached_tokens
            self.asked += request.input_length

    def refuse(self, request: Hinted) -> None:
        raise ValueError(f"a request of {request.input_length} tokens does not fit")

    def line(self) -> str:
        return (
            f"{len(self.ttft_s)} turns, first token {np.mean(self.ttft_s):.3f} s, found {self.cached / self.asked:.1%}"
        )


def beside_small_ones(agents: Trace, seed: int, count: int, tokens: tuple[int, int]) -> Trace:
    """``agents``, and so many requests of nobody, over all of its time."""
    rng = np.random.default_rng(seed)
    number = 1 + max(number for request in agents.requests for number in request.blocks)
    last_s, made = agents.requests[-1].arrival_s, list[Request]()
    for _ in range(count):
        length = int(rng.integers(*tokens))
        blocks = -(-(length + 8) // agents.block_tokens)
        when_s = float(rng.uniform(0, last_s))
        made.append(Request(when_s, SIDE_SESSION, "answer", length, 8, tuple(range(number, number + blocks))))
        number += blocks
    return ordered(f"{agents.name} beside {count} small ones", agents.block_tokens, [*agents.requests, *made])


def hinted(trace: Trace, cost: StepCost, vocab_size: int) -> list[Hinted]:
    """As ``arriving`` has them: times of hints are as much faster."""
    asked = arriving(trace, cost, vocab_size)
    speed = trace.requests[-1].arrival_s / asked[-1].arrival_s
    return [
        Hinted(each.arrival_s, each.tokens, each.output_length, request.pause_s is not None, _said(request, speed))
        for each, request in zip(asked, trace.requests, strict=True)
    ]


def _said(request: Request, speed: float) -> CacheParams:
    if request.session == SIDE_SESSION:
        return CacheParams(priority=40)
    name = f"agent-{request.session}"
    if request.ends == "tool_call":
        return CacheParams(session=name, priority=60, ttl_s=KEPT_S / speed)
    return CacheParams(session=name)


def without(asked: Sequence[Hinted]) -> list[Hinted]:
    return [replace(each, cache=CacheParams()) for each in asked]


def served(engine: Engine, asked: Sequence[Hinted], sleep: Callable[[float], None]) -> Resumed:
    result = Resumed([])
    Replay(engine, result, sleep=sleep, cache=lambda request: request.cache).run(asked)
    engine.check()
    return result


def ratio(name: str, make: Callable[[], tuple[Engine, Callable[[float], None]]], asked: Sequence[Hinted]) -> float:
    """Mean time to the first token without hints over that with them. ``make``: an engine, and what waits for it."""
    plain, told = (served(*_with(make, each)) for each in (without(asked), asked))
    found = float(np.mean(plain.ttft_s) / np.mean(told.ttft_s))
    note(f"{name}: without hints {plain.line()}; with {told.line()}: {found:.2f} times sooner")
    return found


def _with(
    make: Callable[[], tuple[Engine, Callable[[float], None]]], asked: Sequence[Hinted]
) -> tuple[Engine, Sequence[Hinted], Callable[[float], None]]:
    engine, sleep = make()
    return engine, asked, sleep


def simulated(like: Engine, config: EngineConfig, cost: StepCost) -> tuple[Engine, Callable[[float], None]]:
    model, clock = like.model, SimulatedClock()
    shape = Shape(model.kv_map, model.query_heads, model.layer_parameters, model.context_length, model.weights_id)
    return simulated_engine(shape, cost, config, lambda token: 0, clock), clock.advance


def real(like: Engine, config: EngineConfig, cost: StepCost) -> tuple[Engine, Callable[[float], None]]:
    clock, retention = SkippingClock(), make_retention(config.cache.retention, like.model, cost.prefill)
    made = make_engine(like.model, like.tokenizer, config, like.attend_factory, retention, clock, cost.prefill)
    return made, clock.skip


def config_of(like: Engine, trace: Trace) -> EngineConfig:
    """With room for ``SHARE`` of all that a trace stores, and for what its longest requests need."""
    blocks = {number for request in trace.requests for number in request.blocks}
    tokens = trace.block_tokens * max(int(SHARE * len(blocks)), 2 * trace.longest)
    room = like.layout.bytes_for(tokens)
    return replace(like.config, cache=replace(like.config.cache, kv_bytes=room, retention=DEFAULT_RETENTION))


def traces(quick: bool) -> list[Trace]:
    if quick:
        few = MadeAgents(tasks=3, tools_tokens=160, system_tokens=96, calls=(2, 4), questions=(1, 2), answer_tokens=8)
        return [beside_small_ones(few.trace(1), 1, 20, (60, 200))]
    agents = MadeAgents(tasks=6, calls=(3, 8), questions=(1, 3), answer_tokens=24)
    return [beside_small_ones(agents.trace(seed), seed, 250, (200, 800)) for seed in range(3)]


def measure(quick: bool) -> Outcome:
    """Full: three traces of about 340 requests. Quick: a small one, where nothing is expected to be gained."""
    pull(MODEL)
    engines = ModelEngines(build(EngineConfig(model=MODEL, cache=CacheConfig(kv_bytes="256MiB"))), DEFAULT_KV_DTYPE)
    like, cost = engines.loaded.engine, step_cost(engines)
    ratios: dict[str, list[float]] = {"simulated": [], "measured": []}
    for trace in traces(quick):
        asked, config = hinted(trace, cost, like.model.vocab_size), config_of(like, trace)
        for kind, make in (("simulated", simulated), ("measured", real)):
            of_kind = make
            ratios[kind].append(ratio(f"{trace.name}, {kind}", lambda: of_kind(like, config, cost), asked))  # noqa: B023
    goal = 1 / 2 if quick else GOAL
    said = "; ".join(f"{kind} {' '.join(f'{each:.2f}' for each in found)}" for kind, found in ratios.items())
    checks = [
        at_least(f"resumed turns, {kind}", geometric_mean(found), goal, "times sooner with hints", said)
        for kind, found in ratios.items()
    ]
    return worst_of("agent-hints", checks, {"quick": quick, "load": LOAD, "ratios": ratios})
