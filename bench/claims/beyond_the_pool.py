"""beyond-the-pool: a request stays within its budget of KV bytes, whatever its length: exact below it, right above it.

A prompt of four times the budget is served in memory that has room for little more than the budget; no step holds more
bytes than it, and needles in essays are found at least 95% as often as by the exact cache, which has all of the memory
that it wants. The question comes last, when most of the text has long been compressed. Below the budget an answer has
the same tokens. Beside eight streams, no step that anything of such a request is computed or compressed in takes more
than 100 ms.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from bench.claims.lukv_memory import MODEL, contexts
from bench.drive import ModelEngines
from bench.harness import Check, Outcome, at_least, at_most, note, worst_of
from kvloom.config import DEFAULT_KV_DTYPE, CacheConfig, EngineConfig
from kvloom.engine.build import build
from kvloom.engine.cache_params import CacheParams
from kvloom.engine.engine import Engine
from kvloom.engine.params import SamplingParams
from kvloom.eval.frame import frame_of
from kvloom.eval.prompt import Prompt, prompts_of
from kvloom.eval.run import Work
from kvloom.eval.subject import subject_of
from kvloom.eval.tasks import TASKS
from kvloom.model.files.store import pull
from kvloom.policy.compression import compression_of

TASKS_USED = ("niah", "niah_single_1", "niah_single_2", "niah_single_3")
TIMES = 4
FOUND_GOAL, PAUSE_GOAL_MS = 0.95, 100.0
STREAMS = 8
_SETTLED_S = 2.0
"""Requests that come sooner count as if they had come with the streams."""


def within(budget: int) -> CacheParams:
    """The method; nothing is shared."""
    return CacheParams(compression=compression_of("kvzap", budget=budget, allocator="lukv"), write=False)


def answered(engine: Engine, ids: list[int], cache: CacheParams, tokens: int) -> tuple[str, int]:
    """(text, most bytes that a step held)."""
    engine.submit("x", ids, SamplingParams(temperature=0.0, max_tokens=tokens), cache=cache)
    text, peak = "", 0
    while engine.has_work:
        for update in engine.step():
            if update.error is not None:
                raise update.error
            text += "".join(delta.text for delta in update.deltas)
        peak = max(peak, engine.held_bytes)
    return text, peak


def needles(engines: ModelEngines, length: int, count: int) -> Iterator[Prompt]:
    subject = subject_of(engines.loaded)
    frame = frame_of(subject)
    work = Work(tasks=[TASKS[name] for name in TASKS_USED], lengths=[length], count=count, seed=1, frame=frame)
    for cell in work.cells():
        for sample in work.samples(cell, subject):
            yield from prompts_of(cell.task, sample, subject, frame)


def longest_step_ms(engine: Engine, prompts: list[list[int]], long: list[int], cache: CacheParams) -> float:
    """Of the steps beside streams in which a long request is computed, up to its tenth token."""
    for number, prompt in enumerate(prompts):
        params = SamplingParams(temperature=0.0, max_tokens=4000, ignore_eos=True)
        engine.submit(str(number), prompt, params, cache=CacheParams(write=False))
    until = time.perf_counter() + _SETTLED_S
    while time.perf_counter() < until:
        engine.step()
    engine.submit("long", long, SamplingParams(temperature=0.0, max_tokens=10, ignore_eos=True), cache=cache)
    longest = 0.0
    while "long" in engine.requests:
        started = time.perf_counter()
        engine.step()
        longest = max(longest, 1e3 * (time.perf_counter() - started))
    for name in list(engine.requests):
        engine.abort(name)
    return longest


def searched(engines: ModelEngines, length: int, count: int) -> tuple[list[Check], int]:
    """Needles, and the bytes that were held meanwhile; and the budget."""
    layout = engines.loaded.engine.layout
    budget = layout.peak_bytes(length // TIMES)
    pool = layout.bytes_for_blocks(layout.blocks_within(budget, length)) + layout.slab_bytes
    small, large = engines.make(pool), engines.make("2GiB")
    exact = found = peak = 0
    for prompt in needles(engines, length, count):
        text, _ = answered(large, prompt.ids, CacheParams(write=False), prompt.max_new_tokens)
        if prompt.task.score(prompt.sample, prompt.turn, text) < 1:
            continue
        exact += 1
        text, held = answered(small, prompt.ids, within(budget), prompt.max_new_tokens)
        found += prompt.task.score(prompt.sample, prompt.turn, text) == 1
        peak = max(peak, held)
    room = f"room for {small.max_len:,} exact tokens"
    note(f"needles in {length:,} tokens, {room}: {found} of the {exact} that exact KV finds")
    checks = [
        at_least(f"needles in {length:,} tokens", found / max(1, exact), FOUND_GOAL, "of those found exactly", room),
        at_most("most bytes held", peak / budget, 1.0, "of the budget"),
    ]
    return checks, budget


def measure(quick: bool) -> Outcome:
    """Full: prompts of 4,096 tokens, 24 needles. Quick: of 1,024, four needles."""
    pull(MODEL)
    config = EngineConfig(model=MODEL, cache=CacheConfig(kv_bytes="1GiB"))  # prompts are made for what that holds
    engines = ModelEngines(build(config), DEFAULT_KV_DTYPE)
    length, count = (1024, 1) if quick else (4096, 6)
    checks, budget = searched(engines, length, count)
    engine = engines.make("2GiB")
    (below,) = contexts(engines, length // TIMES - 64, 1)
    same = answered(engine, below, within(budget), 60)[0] == answered(engine, below, CacheParams(write=False), 60)[0]
    checks.append(at_least("answers below the budget that are the same", float(same), 1.0, "of 1"))
    streams, (long,) = contexts(engines, 128, STREAMS), contexts(engines, length, 1)
    exactly = longest_step_ms(engine, streams, long, CacheParams(write=False))
    pause = longest_step_ms(engine, streams, long, within(budget))
    remark = f"beside {STREAMS} streams; {exactly:.0f} ms for the same prompt without a budget"
    checks.append(at_most("longest step", pause, PAUSE_GOAL_MS, "ms", remark))
    return worst_of("beyond-the-pool", checks, {"quick": quick, "budget_bytes": budget})
