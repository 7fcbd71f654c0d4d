"""lukv-speed: with 80% of a context removed, a token's attention is three times as fast, and eight streams 1.5 times;
the first token comes after 1.15 times the time of the exact prompt at most.

Attention is the model's own clock over decode steps, end to end the time of whole steps. Exact and compressed contexts
take turns, step by step, in engines over one model; a ratio is the median over the pairs.
"""

from __future__ import annotations

import time
from statistics import median

from bench.claims.lukv_memory import MODEL, compressing, contexts
from bench.drive import ModelEngines, load
from bench.harness import Check, Outcome, at_least, at_most, note, worst_of
from kvloom.engine.cache_params import CacheParams
from kvloom.engine.engine import Engine
from kvloom.engine.params import SamplingParams
from kvloom.model.decoder import Decoder
from kvloom.model.files.store import pull

ATTEND_GOAL, STEP_GOAL, PROMPT_GOAL = 3.0, 1.5, 1.15


def decoding(engines: ModelEngines, prompts: list[list[int]], cache: CacheParams, steps: int) -> Engine:
    """An engine in which all prompts are answered by now."""
    engine = engines.make("2GiB")
    params = SamplingParams(temperature=0.0, max_tokens=20 * steps, ignore_eos=True)
    for number, prompt in enumerate(prompts):
        engine.submit(str(number), prompt, params, cache=cache)
    answering = set[str]()
    while len(answering) < len(prompts):
        answering |= {update.request_id for update in engine.step() if update.deltas}
    return engine


def pairs(engines: ModelEngines, prompts: list[list[int]], steps: int) -> tuple[float, float, str]:
    """Exact over compressed: (attention, whole steps), and a remark."""
    model = engines.loaded.engine.model
    assert isinstance(model, Decoder)
    both = [decoding(engines, prompts, each, steps) for each in (CacheParams(write=False), compressing())]

    def timed(engine: Engine) -> tuple[float, float]:
        before, started = model.operator_seconds()["attend"], time.perf_counter()
        engine.step()
        return 1e3 * (model.operator_seconds()["attend"] - before), 1e3 * (time.perf_counter() - started)

    taken = [[timed(engine) for engine in both] for _ in range(steps)]
    attend, step = ([(exact[which], less[which]) for exact, less in taken] for which in (0, 1))
    said = ", ".join(
        f"{name} {median(a for a, _ in times):.2f} and {median(b for _, b in times):.2f} ms"
        for name, times in (("attention", attend), ("step", step))
    )
    return median(a / b for a, b in attend), median(a / b for a, b in step), said


def first_token_s(engines: ModelEngines, prompt: list[int], cache: CacheParams) -> float:
    """In an engine that knows nothing of the prompt."""
    engine = engines.make("1GiB")
    started = time.perf_counter()
    engine.submit("x", prompt, SamplingParams(temperature=0.0, max_tokens=1, ignore_eos=True), cache=cache)
    while engine.has_work:
        engine.step()
    return time.perf_counter() - started


def prompts(engines: ModelEngines, length: int, rounds: int) -> Check:
    (prompt,) = contexts(engines, length, 1)
    both = CacheParams(write=False), compressing()
    times = [[first_token_s(engines, prompt, each) for each in both] for _ in range(rounds + 1)][1:]
    ratio = median(less / exact for exact, less in times)
    said = f"{median(a for a, _ in times):.2f} and {median(b for _, b in times):.2f} s"
    return at_most(f"first token after {length}", ratio, PROMPT_GOAL, "times the exact time", said)


def measure(quick: bool) -> Outcome:
    """Full: after 4,096 and 8,000 tokens; eight streams after 4,096. Quick: after 1,024 and two streams."""
    pull(MODEL)
    engines, steps = load(MODEL), 15 if quick else 61
    checks: list[Check] = []
    for length in (1024,) if quick else (4096, 8000):
        attend, _, said = pairs(engines, contexts(engines, length, 1), steps)
        checks.append(at_least(f"attention after {length}", attend, ATTEND_GOAL, "times the exact rate", said))
        note(str(checks[-1]))
    streams, length = (2, 1024) if quick else (8, 4096)
    _, step, said = pairs(engines, contexts(engines, length, streams), steps)
    checks.append(at_least(f"{streams} streams after {length}", step, STEP_GOAL, "times the exact rate", said))
    note(str(checks[-1]))
    checks.append(prompts(engines, 512 if quick else 4096, 3 if quick else 7))
    note(str(checks[-1]))
    return worst_of("lukv-speed", checks, {"quick": quick})
