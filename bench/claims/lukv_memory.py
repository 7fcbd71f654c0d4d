"""lukv-memory: contexts of which 80% is removed take at most 23% of the bytes, and four times as many fit one budget.

Bytes are the ledger's, of whole pages, with the metadata that is charged for them. In the budget of so many exact
contexts, four times as many compressed ones are answered at the same time, and none is preempted. Prompts go before
answers there, each in one step, and as time stands still a compression is not done in pieces beside answers either:
what answers add while other contexts are computed is not what is measured.
"""

from __future__ import annotations

import math
import random

from bench.drive import ModelEngines
from bench.harness import Outcome, at_least, at_most, note, worst_of
from kvloom.config import DEFAULT_KV_DTYPE, CacheConfig, EngineConfig, SchedulerConfig
from kvloom.engine.build import build
from kvloom.engine.cache_params import CacheParams
from kvloom.engine.engine import Engine
from kvloom.engine.params import SamplingParams
from kvloom.eval.corpus import essays
from kvloom.model.files.store import pull
from kvloom.policy.compression import compression_of

MODEL = "smollm2-135m-instruct"
RATIO, SHARE_GOAL, TIMES_GOAL = 0.8, 0.23, 4.0
ANSWER = 64


def contexts(engines: ModelEngines, length: int, count: int) -> list[list[int]]:
    """Prose without a common beginning."""
    rng, sentences = random.Random(0), essays().sentences
    found = []
    for _ in range(count):
        start = rng.randrange(len(sentences) - length // 6)
        found.append(engines.encode(" ".join(sentences[start : start + length // 6]))[:length])
    assert all(len(each) == length for each in found)
    return found


def loaded(step_tokens: int) -> ModelEngines:
    """An engine that computes a prompt in one step, whoever waits for it."""
    scheduler = SchedulerConfig(step_tokens=step_tokens, max_decode_slowdown=math.inf)
    config = EngineConfig(model=MODEL, cache=CacheConfig(kv_bytes="64MiB"), scheduler=scheduler)
    return ModelEngines(build(config), DEFAULT_KV_DTYPE)


def compressing() -> CacheParams:
    """The method, and nothing is published: what a context holds is its own."""
    return CacheParams(compression=compression_of("kvzap", RATIO, allocator="lukv"), write=False)


def held_bytes(engines: ModelEngines, context: list[int], cache: CacheParams) -> int:
    """What is charged while one request is answered, at its third token."""
    engine = engines.make("1GiB")
    params = SamplingParams(temperature=0.0, max_tokens=4, ignore_eos=True)
    engine.submit("x", context, params, cache=cache)
    while engine.commit.generated_tokens < 3:
        engine.step()
    cache_stats = engine.stats().cache
    return cache_stats.held_bytes + cache_stats.metadata_bytes


def together(engine: Engine, prompts: list[list[int]], cache: CacheParams) -> tuple[int, int]:
    """(how many were answered at the same time at most, preemptions)."""
    params = SamplingParams(temperature=0.0, max_tokens=ANSWER * len(prompts), ignore_eos=True)
    for number, prompt in enumerate(prompts):
        engine.submit(str(number), prompt, params, cache=cache)
    most, answering = 0, set[str]()
    while engine.has_work:
        for update in engine.step():
            if update.deltas:
                answering.add(update.request_id)
        most = max(most, len(answering))
        if len(answering) == len(prompts):
            for name in list(answering):
                engine.abort(name)
            break
        if engine.stats().preemptions:
            break
    return most, engine.stats().preemptions


def measure(quick: bool) -> Outcome:
    """Full: contexts of 4,096, in the budget of eight. Quick: of 1,024."""
    pull(MODEL)
    length, exact = (1024, 8) if quick else (4096, 8)
    engines = loaded(length)
    prompts = contexts(engines, length, int(exact * TIMES_GOAL))
    whole, left = (held_bytes(engines, prompts[0], each) for each in (CacheParams(write=False), compressing()))
    note(f"one context of {length}: {whole:,} bytes, and {left:,} after {RATIO:.0%} was removed")
    budget = exact * engines.loaded.engine.layout.bytes_for(length + ANSWER)
    most, preemptions = together(engines.make(budget, clock=lambda: 0.0), prompts, compressing())
    note(f"{most} of {len(prompts)} answered together in {budget:,} bytes, {preemptions} preemptions")
    remark = f"{budget:,} bytes, {preemptions} preemptions"
    checks = [
        at_most(f"bytes of {length} tokens", left / whole, SHARE_GOAL, "of the exact context's"),
        at_least("contexts at once", most / exact, TIMES_GOAL, f"times {exact} exact ones", remark),
    ]
    return worst_of("lukv-memory", checks, {"quick": quick, "exact_bytes": whole, "compressed_bytes": left})
