"""asymcache-ttft: what retention by cost is worth on the real engine, where contexts are long enough for it to differ.

Conversations of 2K to 8K tokens that share their first 320 (the multi-turn trace of AsymCache's evaluation, for a small
model), with KV memory for 40% of the working set at its largest: what an endless cache would have in use then. Every
policy serves the same requests, trace by trace, in turn. They arrive so fast that an engine with an endless cache would
be busy for a quarter of the time, and waiting takes none. The claim is the mean time to the first token under LRU over
that under ``asymcache``; the other policies are reported beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import geometric_mean

import numpy as np

from bench.claims.simulator import Asked, SkippingClock, arriving, step_cost
from bench.drive import ModelEngines
from bench.harness import Outcome, at_least, note, worst_of
from bench.retention_gaps import Gaps, capacity
from kvloom.bench.replay import Replay
from kvloom.config import DEFAULT_KV_DTYPE, CacheConfig, EngineConfig, RetentionName
from kvloom.engine.build import build
from kvloom.engine.factory import make_engine
from kvloom.engine.outputs import RequestMetrics
from kvloom.engine.retention import make_retention
from kvloom.model.files.store import pull
from kvloom.policy.cost import PrefillCost
from kvloom.segment import Why
from kvloom.simulate.traces.multi_turn import HIGH_DISPERSION, LOW_DISPERSION, MultiTurn
from kvloom.simulate.traces.trace import Trace

MODEL = "smollm2-135m-instruct"
POLICIES: tuple[RetentionName, ...] = ("lru", "asymcache", "survival")
GOAL, SHARE = 1.3, 0.4
LENGTHS = (2048, 7680)
"""Of conversations, without what they share: together within the context of the model."""


@dataclass(slots=True)
class Served:
    """What a policy made of a trace. ``cost``: of prefill, by which what was evicted is weighed."""

    cost: PrefillCost
    ttft_s: list[float]
    tpot_s: list[float]
    cached: int = 0
    asked: int = 0
    recompute_s: float = 0.0

    def add(self, request: Asked, metrics: RequestMetrics, late_s: float) -> None:
        if metrics.ttft_s is not None:
            self.ttft_s.append(late_s + metrics.ttft_s)
        times = metrics.token_times_s
        self.tpot_s += [(times[-1] - times[0]) / (len(times) - 1)] if len(times) > 1 else []
        self.cached += metrics.cached_tokens
        self.asked += request.input_length
        evicted = [miss.span for miss in metrics.misses if miss.why is Why.EVICTED]
        self.recompute_s += sum(self.cost.block(span.start, len(span)) for span in evicted)

    def refuse(self, request: Asked) -> None:
        raise ValueError(f"a request of {request.input_length} tokens does not fit")

    def line(self) -> str:
        mean, p95 = np.mean(self.ttft_s), np.percentile(self.ttft_s, 95)
        return (
            f"first token {mean:.3f} s (p95 {p95:.3f}), token {1e3 * np.mean(self.tpot_s):.1f} ms, "
            f"recomputed {self.recompute_s:.1f} s, found {self.cached / self.asked:.1%}"
        )


def served(engines: ModelEngines, policy: RetentionName, asked: list[Asked], room: int, cost: PrefillCost) -> Served:
    first, clock, result = engines.loaded.engine, SkippingClock(), Served(cost, [], [])
    cache = CacheConfig(kv_bytes=room, kv_dtype=DEFAULT_KV_DTYPE, retention=policy)
    config, retention = EngineConfig(model=MODEL, cache=cache), make_retention(policy, first.model, cost)
    engine = make_engine(first.model, first.tokenizer, config, first.attend_factory, retention, clock, cost)
    Replay(engine, result, sleep=clock.skip).run(asked)
    engine.check()
    return result


def room_of(engines: ModelEngines, trace: Trace) -> int:
    blocks = max(capacity(trace, Gaps.of(trace), SHARE), 2 * trace.longest)
    return engines.loaded.engine.layout.bytes_for(16 * blocks)


def traces(quick: bool) -> list[Trace]:
    if quick:
        return [MultiTurn(sessions=5, shared_tokens=128, lengths=(600, 1500), turns=(3, 5), answer_tokens=8).trace(0)]
    shapes = [MultiTurn(sessions=10, lengths=LENGTHS, dispersion=by) for by in (LOW_DISPERSION, HIGH_DISPERSION)]
    return [shapes[seed % 2].trace(seed) for seed in range(5)]


def measure(quick: bool) -> Outcome:
    """Full: five traces of about sixty requests. Quick: a small one, where nothing is expected to be gained."""
    pull(MODEL)
    engines = ModelEngines(build(EngineConfig(model=MODEL, cache=CacheConfig(kv_bytes="256MiB"))), DEFAULT_KV_DTYPE)
    cost, ratios = step_cost(engines), {policy: list[float]() for policy in POLICIES}
    for trace in traces(quick):
        asked, room = arriving(trace, cost, engines.loaded.engine.model.vocab_size), room_of(engines, trace)
        found = {policy: served(engines, policy, asked, room, cost.prefill) for policy in POLICIES}
        for policy, result in found.items():
            note(f"{trace.name}, {room / 2**20:.0f} MiB, {policy}: {result.line()}")
            ratios[policy].append(float(np.mean(found["lru"].ttft_s) / np.mean(result.ttft_s)))
    means = {policy: geometric_mean(each) for policy, each in ratios.items()}
    said = "; ".join(f"{policy} {' '.join(f'{ratio:.2f}' for ratio in each)}" for policy, each in ratios.items())
    goal = 1 / 1.5 if quick else GOAL
    checks = [at_least("first token, asymcache", means["asymcache"], goal, "times sooner than under LRU", said)]
    return worst_of("asymcache-ttft", checks, {"quick": quick, "means": means})
