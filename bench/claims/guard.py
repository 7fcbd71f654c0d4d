"""guard: what a bad method of compression does to an answer is noticed in time, and what a good one does costs little.

Contexts are essays in which needles are hidden, compressed before the question is known. With 90% of them removed at
random and a guard, answers find at least 95% of the needles that exact KV finds. Where a method keeps everything,
a guard that tolerates nothing never acts. What it costs is told as the time of a token: guarded over unguarded, with
80% of a context removed by a method that is not gone back from, the median over pairs of answers that take turns.
"""

from __future__ import annotations

import time
from dataclasses import replace
from statistics import median

from bench.claims.beyond_the_pool import needles
from bench.claims.lukv_memory import MODEL, compressing, contexts
from bench.drive import ModelEngines, load
from bench.harness import Check, Outcome, at_least, at_most, note, worst_of
from kvloom.engine.cache_params import CacheParams, Guard
from kvloom.engine.engine import Engine
from kvloom.engine.outputs import RequestMetrics
from kvloom.engine.params import SamplingParams
from kvloom.eval.prompt import Prompt
from kvloom.model.files.store import pull
from kvloom.policy.compression import Compression, compression_of

BAD, GOOD = compression_of("random", 0.9), compression_of("keep_all")
FOUND_GOAL, TIME_GOAL = 0.95, 1.5
NEVER = 1e9


def answered(engine: Engine, prompt: Prompt, cache: CacheParams) -> tuple[bool, RequestMetrics]:
    """Whether the needle was found."""
    engine.submit("x", prompt.ids, SamplingParams(temperature=0.0, max_tokens=prompt.max_new_tokens), cache=cache)
    text = ""
    while engine.has_work:
        for update in engine.step():
            if update.error is not None:
                raise update.error
            text += "".join(delta.text for delta in update.deltas)
    return prompt.task.score(prompt.sample, prompt.turn, text) == 1, update.metrics


def of_context(prompt: Prompt, method: Compression, guard: Guard | None) -> CacheParams:
    return CacheParams(compression=method, compress_after=len(prompt.context_ids), guard=guard)


def searched(engines: ModelEngines, length: int, count: int) -> list[Check]:
    engine = engines.make("2GiB")
    exact = guarded = restored = unguarded = untouched = 0
    for prompt in needles(engines, length, count):
        if not answered(engine, prompt, CacheParams())[0]:
            continue
        exact += 1
        unguarded += answered(engine, prompt, of_context(prompt, BAD, None))[0]
        found, metrics = answered(engine, prompt, of_context(prompt, BAD, Guard()))
        guarded += found
        restored += metrics.guard is not None and metrics.guard.restored_at is not None
        report = answered(engine, prompt, of_context(prompt, GOOD, Guard(every=1, drift=0.0)))[1].guard
        untouched += report is not None and report.restored_at is None and report.max_kl == 0
    remark = f"{guarded} of {exact}, {restored} answers went back; {unguarded} without a guard"
    note(f"needles in {length:,} tokens: {remark}")
    return [
        at_least("needles", guarded / max(1, exact), FOUND_GOAL, "of those found exactly", remark),
        at_least("answers that were left alone", untouched / max(1, exact), 1.0, "of those that lose nothing"),
    ]


def token_ms(engine: Engine, prompt: list[int], cache: CacheParams, tokens: int) -> float:
    """Mean time of a token after the first one."""
    params = SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True)
    engine.submit("x", prompt, params, cache=cache)
    stamps: list[float] = []
    while engine.has_work:
        if any(update.deltas for update in engine.step()):
            stamps.append(time.perf_counter())
    return 1e3 * (stamps[-1] - stamps[0]) / (len(stamps) - 1)


def cost(engines: ModelEngines, length: int, pairs: int) -> Check:
    engine, guard = engines.make("2GiB"), Guard(drift=NEVER)
    (prompt,) = contexts(engines, length, 1)
    both = replace(compressing(), write=True), replace(compressing(), write=True, guard=guard)
    times = [[token_ms(engine, prompt, each, 8 * guard.every + 1) for each in both] for _ in range(pairs + 1)][1:]
    ratio = median(guarded / plain for plain, guarded in times)
    said = f"{median(a for a, _ in times):.2f} and {median(b for _, b in times):.2f} ms, every {guard.every} tokens"
    return at_most(f"time of a token after {length}", ratio, TIME_GOAL, "times the unguarded time", said)


def measure(quick: bool) -> Outcome:
    """Full: needles in 2,048 tokens, 24 of them; time after 4,096. Quick: four needles, all in 1,024."""
    pull(MODEL)
    engines = load(MODEL)
    length, count = (1024, 1) if quick else (2048, 6)
    checks = searched(engines, length, count)
    checks.append(cost(engines, 1024 if quick else 4096, 3 if quick else 11))
    note(str(checks[-1]))
    return worst_of("guard", checks, {"quick": quick})
