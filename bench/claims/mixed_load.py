"""mixed-load: long prompts arrive while 16 streams decode: each token within the latency asked for, at little cost.

The same work, prompts at the same points of it, is done by engines that take turns: one with a latency to keep, one
that computes prompts in whole steps. What is asked for is three times what a token of 16 streams takes there without
prompts; 99 of 100 gaps between two tokens of a stream are to be within it. Throughput is output tokens per second from
the first prompt's arrival until everything is answered, the streams included, which outlast the prompts.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median, quantiles

from bench.claims.lukv_memory import MODEL, contexts
from bench.drive import ModelEngines, load
from bench.harness import Outcome, at_least, at_most, note, worst_of
from kvloom.config import SchedulerConfig
from kvloom.engine.cache_params import CacheParams
from kvloom.engine.engine import Engine
from kvloom.engine.params import SamplingParams
from kvloom.eval.subject import engine_beside
from kvloom.model.files.store import pull

STREAMS, TIMES = 16, 3.0
THROUGHPUT_GOAL = 0.9
_PROMPT = 512
_SETTLED_S = 1.0
"""Requests that come sooner count as if they had come with the streams."""


@dataclass(frozen=True, slots=True)
class Load:
    """``prompts`` of ``length`` tokens arrive, one every ``every`` tokens of the streams; each stream has ``tokens``
    more to come from the first arrival on.
    """

    length: int
    prompts: int
    every: int
    tokens: int
    rounds: int


QUICK = Load(length=1024, prompts=2, every=20, tokens=80, rounds=1)
FULL = Load(length=4096, prompts=2, every=150, tokens=600, rounds=3)


@dataclass(frozen=True, slots=True)
class Ran:
    """gaps_s: between two tokens of a stream, where the later one's step had prompts to compute or to answer. ttft_s:
    of the prompts.
    """

    seconds: float
    output_tokens: int
    gaps_s: list[float]
    ttft_s: list[float]

    @property
    def rate(self) -> float:
        return self.output_tokens / self.seconds

    @property
    def p99_s(self) -> float:
        return quantiles(self.gaps_s, n=100, method="inclusive")[98]


@dataclass
class Driven:
    """An engine, and when each of its requests had tokens. ``busy_s``: ends of steps with long prompts to serve."""

    engine: Engine
    busy_s: set[float] = field(default_factory=set)
    times_s: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def submit(self, name: str, ids: list[int], tokens: int) -> None:
        params = SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True)
        self.engine.submit(name, ids, params, cache=CacheParams(read=False, write=False))

    def step(self) -> None:
        busy = any(name.startswith("long") for name in self.engine.requests)
        updates, now = self.engine.step(), time.perf_counter()
        if busy:
            self.busy_s.add(now)
        for update in updates:
            if update.error is not None:
                raise update.error
            self.times_s[update.request_id] += [now] * sum(len(delta.token_ids) for delta in update.deltas)

    def start(self, prompts: list[list[int]], tokens: int) -> int:
        """Start streams that have ``tokens`` to come when they have settled; how many each has then."""
        began_s = time.perf_counter()
        spent = 200 + tokens
        for n, ids in enumerate(prompts):
            self.submit(f"stream{n}", ids, spent)
        while len(self.times_s) < len(prompts) or time.perf_counter() < began_s + _SETTLED_S:
            self.step()
        return min(len(self.times_s[f"stream{n}"]) for n in range(len(prompts)))


def quiet_s(engine: Engine, streams: list[list[int]]) -> float:
    """What a token takes without prompts."""
    driven = Driven(engine)
    driven.start(streams, 40)
    until = len(driven.times_s["stream0"]) + 24
    while len(driven.times_s["stream0"]) < until:
        driven.step()
    times = driven.times_s["stream0"][-24:]
    return median(later - earlier for earlier, later in pairwise(times))


def run(engine: Engine, streams: list[list[int]], long: list[list[int]], load: Load) -> Ran:
    """The load from the first arrival to the end."""
    driven = Driven(engine)
    begun = driven.start(streams, load.tokens)
    started, sent = time.perf_counter(), list[float]()
    first = {name: len(times) for name, times in driven.times_s.items()}
    while len(sent) < len(long) or any(f"long{n}" in engine.requests for n in range(len(long))):
        if len(sent) < len(long) and len(driven.times_s["stream0"]) >= begun + load.every * len(sent):
            sent.append(time.perf_counter())
            driven.submit(f"long{len(sent) - 1}", long[len(sent) - 1], 8)
        driven.step()
    if any(len(driven.times_s[name]) - first[name] >= load.tokens for name in first):
        raise RuntimeError("the streams did not outlast the prompts")
    while any(len(driven.times_s[name]) - first[name] < load.tokens for name in first):
        driven.step()
    ended = time.perf_counter()
    for name in list(engine.requests):
        engine.abort(name)
    gaps = [
        later - earlier for name in first for earlier, later in pairwise(driven.times_s[name]) if later in driven.busy_s
    ]
    ttft = [driven.times_s[f"long{n}"][0] - sent[n] for n in range(len(long))]
    return Ran(ended - started, STREAMS * load.tokens + 8 * len(long), gaps, ttft)


def engine_with(engines: ModelEngines, scheduler: SchedulerConfig) -> Engine:
    first = engines.loaded.engine
    config = dataclasses.replace(first.config, scheduler=scheduler)
    cache = dataclasses.replace(first.config.cache, kv_bytes="2GiB")
    return engine_beside(dataclasses.replace(first, config=config), cache)


def measure(quick: bool) -> Outcome:
    """Full: two prompts of 4,096 tokens, three rounds. Quick: two of 1,024, one round."""
    pull(MODEL)
    engines, size = load(MODEL), QUICK if quick else FULL
    streams, long = contexts(engines, _PROMPT, STREAMS), contexts(engines, size.length, size.prompts)
    free = SchedulerConfig(max_decode_slowdown=math.inf)
    alone_s = quiet_s(engine_with(engines, free), streams)
    asked_s = TIMES * alone_s
    note(f"a token of {STREAMS} streams takes {1e3 * alone_s:.0f} ms; {1e3 * asked_s:.0f} ms are asked for")
    limited, unlimited = list[Ran](), list[Ran]()
    for number in range(size.rounds):
        for into, scheduler in ((limited, SchedulerConfig(max_token_latency_s=asked_s)), (unlimited, free)):
            into.append(run(engine_with(engines, scheduler), streams, long, size))
        ours, theirs = limited[-1], unlimited[-1]
        note(
            f"round {number}: p99 {1e3 * ours.p99_s:.0f} ms, {ours.rate:.0f} tok/s, first tokens after "
            f"{median(ours.ttft_s):.1f} s; unlimited {1e3 * theirs.p99_s:.0f} ms, {theirs.rate:.0f}, "
            f"{median(theirs.ttft_s):.1f} s"
        )
    share = median(ours.rate / theirs.rate for ours, theirs in zip(limited, unlimited, strict=True))
    without = median(each.p99_s for each in unlimited)
    checks = [
        at_most(
            "p99 between tokens",
            median(each.p99_s for each in limited) / asked_s,
            1.0,
            "of the latency asked for",
            f"{1e3 * asked_s:.0f} ms; {1e3 * without:.0f} ms in whole steps",
        ),
        at_least("output tokens per second", share, THROUGHPUT_GOAL, "of those in whole steps"),
    ]
    details = {
        "quick": quick,
        "ttft_s": [round(median(each.ttft_s), 2) for each in limited],
        "ttft_s_unlimited": [round(median(each.ttft_s), 2) for each in unlimited],
    }
    return worst_of("mixed-load", checks, details)
