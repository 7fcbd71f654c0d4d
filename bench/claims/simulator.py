"""simulator: mean times to the first token are within 15% of the real engine's, on three traces.

Conversations, agents and bursts are served by the real engine, with memory for a part of what they store, and then
simulated. What steps cost, of prompts and of answers, is measured before each of them. Requests arrive so fast that the
engine is busy for about a quarter of the time; when nothing is to be done, its clock is put forward.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bench.drive import ModelEngines
from bench.harness import Check, Outcome, at_most, note, worst_of
from kvloom.bench.replay import Replay, Replayed
from kvloom.config import DEFAULT_KV_DTYPE, CacheConfig, EngineConfig, RetentionName
from kvloom.engine.build import build
from kvloom.engine.engine import Engine
from kvloom.engine.factory import make_engine
from kvloom.engine.retention import make_retention
from kvloom.learn.cost import Survey, learn_costs
from kvloom.learn.decode_cost import learn_decode
from kvloom.model.files.store import pull
from kvloom.simulate.clock import SimulatedClock
from kvloom.simulate.endless import EndlessCache
from kvloom.simulate.model import Shape
from kvloom.simulate.simulation import simulated_engine
from kvloom.simulate.step_cost import StepCost
from kvloom.simulate.traces.made_agents import MadeAgents
from kvloom.simulate.traces.multi_turn import MultiTurn
from kvloom.simulate.traces.trace import Request, Trace, ordered

MODEL = "smollm2-135m-instruct"
POLICY: RetentionName = "asymcache"
GOAL, LOAD = 1.15, 0.25
SURVEY = Survey((32, 128, 512), starts=4, longest=2048, rounds=2, tier_bytes=2**20)
"""As brief as can be, but with the largest steps that the engine takes: a row of those costs a few percent more."""

SHARE = 0.4
"""Of all that a trace would store."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as both engines get it."""

    arrival_s: float
    tokens: list[int]
    output_length: int

    @property
    def input_length(self) -> int:
        return len(self.tokens)

    def prompt(self, vocab_size: int) -> list[int]:
        return self.tokens


@dataclass(slots=True)
class SkippingClock:
    """Real time, but waiting takes none."""

    skipped_s: float = 0.0
    _started_s: float = field(default_factory=time.perf_counter)

    def __call__(self) -> float:
        return time.perf_counter() - self._started_s + self.skipped_s

    def skip(self, seconds: float) -> None:
        self.skipped_s += seconds


def bursts(seed: int, count: int, size: int, tokens: tuple[int, int], answer: int) -> Trace:
    """So many times, ``size`` requests come at once: half of them begin with the same 256 tokens."""
    rng, number = np.random.default_rng(seed), 16
    found: list[Request] = []
    for burst in range(count):
        for place in range(size):
            length = int(rng.integers(*tokens))
            own = -(-(length + answer) // 16)
            blocks = (*range(16 * (place % 2)), *range(number, number + own - 16 * (place % 2)))
            number += own
            found.append(Request(60.0 * burst, number, "answer", length, answer, blocks))
    return ordered("bursts", 16, found)


def traces(quick: bool) -> list[Trace]:
    if quick:
        talk = MultiTurn(sessions=5, shared_tokens=128, lengths=(500, 1200), turns=(3, 5), answer_tokens=16)
        agents = MadeAgents(
            tasks=3, tools_tokens=160, system_tokens=96, calls=(2, 4), questions=(1, 2), answer_tokens=16
        )
        return [talk.trace(1), agents.trace(1), bursts(1, 3, 4, (300, 700), 16)]
    talk = MultiTurn(sessions=14, shared_tokens=320, lengths=(1000, 3000))
    agents = MadeAgents(tasks=5, calls=(3, 8), questions=(1, 3), answer_tokens=32)
    return [talk.trace(1), agents.trace(1), bursts(1, 10, 6, (300, 1200), 32)]


def busy_s(trace: Trace, cost: StepCost) -> float:
    """Seconds of serving it one by one with a cache without limits."""
    cache, seconds = EndlessCache(trace.block_tokens), 0.0
    for request in trace.requests:
        known, length = cache.known(request.blocks, request.input_tokens), request.input_tokens
        cache.store(request.blocks, request.input_tokens)  # the model answers otherwise than the trace has it
        seconds += cost.prefill.step(0, 0) + cost.prefill.block(known, length - known)
        seconds += (request.output_tokens - 1) * cost.decode.step(1, length)
    return seconds


def arriving(trace: Trace, cost: StepCost, vocab_size: int) -> list[Asked]:
    """At a speed that keeps a machine of such costs busy for ``LOAD`` of the time."""
    last_s = trace.requests[-1].arrival_s
    speed = LOAD * last_s / busy_s(trace, cost)
    return [
        Asked(
            request.arrival_s / speed,
            trace.contents(request, vocab_size)[: request.input_tokens],
            request.output_tokens,
        )
        for request in trace.requests
    ]


def served(engine: Engine, asked: list[Asked], sleep: Callable[[float], None]) -> Replayed:
    result = Replayed()
    Replay(engine, result, sleep=sleep).run(asked)
    engine.check()
    return result


def simulated(like: Engine, asked: list[Asked], cost: StepCost) -> Replayed:
    """By an engine of the same shape and settings."""
    model, clock = like.model, SimulatedClock()
    shape = Shape(model.kv_map, model.query_heads, model.layer_parameters, model.context_length, model.weights_id)
    return served(simulated_engine(shape, cost, like.config, lambda token: 0, clock), asked, clock.advance)


def check_of(name: str, real: Replayed, found: Replayed) -> Check:
    ours, theirs = np.mean(found.ttft_s), np.mean(real.ttft_s)
    off = float(max(ours / theirs, theirs / ours))
    remark = (
        f"{ours:.3f} s simulated, {theirs:.3f} s real over {len(real.ttft_s)} requests; "
        f"{found.cached_tokens:,} and {real.cached_tokens:,} of {real.input_tokens:,} tokens were found"
    )
    note(f"{name}: {remark}")
    return at_most(f"{name}, mean time to the first token", off, GOAL, "times the other", remark)


def step_cost(engines: ModelEngines) -> StepCost:
    """As it is here and now."""
    with tempfile.TemporaryDirectory() as place:
        prefill = learn_costs(engines.loaded.engine, SURVEY, Path(place), time.perf_counter).prefill
    cost = StepCost(prefill, learn_decode(engines.make("1GiB"), time.perf_counter))
    note(f"costs: {cost}")
    return cost


def compared(engines: ModelEngines, trace: Trace) -> Check:
    first, cost = engines.loaded.engine, step_cost(engines)
    asked, clock = arriving(trace, cost, first.model.vocab_size), SkippingClock()
    cache = CacheConfig(kv_bytes=room(first, trace), kv_dtype=DEFAULT_KV_DTYPE, retention=POLICY)
    config, retention = EngineConfig(model=MODEL, cache=cache), make_retention(POLICY, first.model, cost.prefill)
    real = make_engine(first.model, first.tokenizer, config, first.attend_factory, retention, clock, cost.prefill)
    return check_of(trace.name, served(real, asked, clock.skip), simulated(real, asked, cost))


def measure(quick: bool) -> Outcome:
    """Full: 60 to 81 requests of each kind, of up to 5,800 tokens. Quick: a dozen or more, of up to 2,300."""
    pull(MODEL)
    engines = ModelEngines(build(EngineConfig(model=MODEL, cache=CacheConfig(kv_bytes="256MiB"))), DEFAULT_KV_DTYPE)
    checks = [compared(engines, trace) for trace in traces(quick)]
    return worst_of("simulator", checks, {"quick": quick, "policy": POLICY})


def room(engine: Engine, trace: Trace) -> int:
    """``SHARE`` of all that a trace stores, and what its longest requests need."""
    blocks = {number for request in trace.requests for number in request.blocks}
    return engine.layout.bytes_for(max(int(SHARE * 16 * len(blocks)), 2 * 16 * trace.longest))
