"""What statistics of attention cost: a prompt computed without and with probes.

    python -m bench.micro_observe [--model smollm2-135m-instruct] [--tokens 2048] [--chunk 512] [--rounds 7]

All layers, in chunks as the engine cuts them, in turns: nobody asks; somebody asks for sums over the last 32 rows, for
maxima over them by query head, for their queries; for sums over all rows. Then one token after the prompt, alone and
with its sums. Medians over rounds, in milliseconds of all chunks together; ``attend`` and ``observe`` are operators of
the step. A ratio is the median over rounds of step by step of the same round where nobody asks.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence

import numpy as np

from bench.drive import load
from bench.full_cache import FullCache
from kvloom.attend.cpu import CpuAttend
from kvloom.attend.observe import Observation, Probe, QueryRecord, Reduce, Tally
from kvloom.bench.workloads import random_tokens
from kvloom.config import DEFAULT_KV_DTYPE, processor
from kvloom.model.decoder import Decoder
from kvloom.segment import Span, SpanSet

WINDOW = 32
NOBODY, ALL = "nobody", "all rows, sums"
SUMS, MAXIMA, QUERIES = "last 32, sums", "last 32, maxima by query head", "last 32, queries"
Times = dict[str, float]


def probes(model: Decoder, kind: str, rows: SpanSet, columns: Span) -> list[Probe]:
    """Fresh ones: what they hold is no part of what is timed."""
    layers, spec = range(len(model.blocks)), model.spec
    if kind == NOBODY:
        return []
    if kind == QUERIES:
        return [QueryRecord.of(rows, layers, spec.heads, spec.head_dim)]
    reduce, heads = (Reduce.MAX, spec.heads) if kind == MAXIMA else (Reduce.SUM, spec.kv_heads)
    return [Tally.of(Observation(rows, columns, reduce), layers, heads)]


def timed(model: Decoder, cache: FullCache, tokens: Sequence[int], spans: Sequence[Span], asked: list[Probe]) -> Times:
    """Milliseconds of the steps ``spans``, all in all and by operator."""
    attend, before = CpuAttend(cache.memory, model.threads), model.operator_seconds()
    observers, started = {0: asked} if asked else {}, time.perf_counter()
    for span in spans:
        rows = np.array(tokens[span.start : span.stop])
        model.forward(rows, cache.plan(span.start, span.stop), attend, np.array([len(rows) - 1]), observers)
    step_s = time.perf_counter() - started
    operators = {name: after - before[name] for name, after in model.operator_seconds().items()}
    return {name: 1e3 * taken for name, taken in {"step": step_s, **operators}.items()}


def report(name: str, rounds: Sequence[Times], beside: Sequence[Times]) -> None:
    middle = {of: statistics.median(one[of] for one in rounds) for of in ("step", "attend", "observe")}
    ratio = statistics.median(one["step"] / other["step"] for one, other in zip(rounds, beside, strict=True))
    print(
        f"| {name} | {middle['step']:.2f} | {middle['attend']:.2f} | {middle['observe']:.2f} | {ratio:.3f} |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--chunk", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    model, length = load(options.model).loaded.engine.model, options.tokens
    if not isinstance(model, Decoder):
        parser.error(f"{options.model} is no decoder of this package")
    tokens = random_tokens(model.vocab_size, 0)(length + 1)
    cache = FullCache(model.kv_map, length + 1, DEFAULT_KV_DTYPE)
    prompt = [Span(start, min(start + options.chunk, length)) for start in range(0, length, options.chunk)]
    last, everything = SpanSet((Span(max(0, length - WINDOW), length),)), SpanSet.full(length + 1)
    loads = [
        ("prompt", prompt, (NOBODY, SUMS, MAXIMA, QUERIES, ALL), last),
        ("one token", [Span(length, length + 1)], (NOBODY, ALL), everything),
    ]
    print(f"{processor()}, {model.threads} threads, {options.model}, {length} tokens; {options.rounds} rounds\n")
    print("| rows | step ms | attend | observe | ratio |\n|---|---|---|---|---|")
    for load_name, spans, kinds, rows in loads:
        found: dict[str, list[Times]] = {kind: [] for kind in kinds}
        for number in range(options.rounds + 1):
            for kind in kinds if number % 2 else kinds[::-1]:
                chosen = everything if kind == ALL else rows
                asked = probes(model, kind, chosen, Span(0, length + 1))
                found[kind].append(timed(model, cache, tokens, spans, asked))
        for kind in kinds:
            report(f"{load_name}: {kind}", found[kind][1:], found[NOBODY][1:])


if __name__ == "__main__":
    main()
