"""Measure what answers cost: steps of an engine that does nothing but continue so many sequences of such lengths."""

from __future__ import annotations

import random
from collections.abc import Iterable

from kvloom.engine.cache_params import CacheParams
from kvloom.engine.engine import Engine
from kvloom.engine.params import SamplingParams
from kvloom.learn.prefill_fit import LEAST_STEPS, Step, fit_prefill
from kvloom.learn.timing import Clock, seconds_of
from kvloom.policy.cost import PrefillCost
from kvloom.segment import Span, SpanSet

STREAMS, LENGTHS = (1, 4), (64, 1024)
_STEPS = 2 * LEAST_STEPS


def learn_decode(
    engine: Engine, clock: Clock, streams: Iterable[int] = STREAMS, lengths: Iterable[int] = LENGTHS
) -> PrefillCost:
    """Seconds of a step, of a sequence that it continues, and of that for each position before it.

    ``streams`` sequences of about ``lengths`` tokens each are answered together, for every pair. Nothing is stored, but
    what is cached may have to go.
    """
    rng, steps = random.Random(0), list[Step]()
    for length in lengths:
        for count in streams:
            steps += _decoding(engine, clock, rng, [length + n for n in range(count)])
    return fit_prefill(steps)


def _decoding(engine: Engine, clock: Clock, rng: random.Random, lengths: list[int]) -> list[Step]:
    """Steps in which all of them are continued. Lengths differ, so that a step can be told as a set of positions."""
    params = SamplingParams(temperature=0.0, max_tokens=len(lengths) * 64 + _STEPS, ignore_eos=True)
    names = [f"decode-{length}" for length in lengths]
    for name, length in zip(names, lengths, strict=True):
        prompt = rng.choices(range(engine.model.vocab_size), k=length)
        engine.submit(name, prompt, params, cache=CacheParams(read=False, write=False))
    try:
        sequences = [engine.requests[name].sequences[0] for name in names]
        while any(not sequence.num_generated for sequence in sequences):
            engine.step()
        found = []
        for _ in range(_STEPS):
            spans = SpanSet.of([Span(n, n + 1) for n in {len(sequence.tokens) - 1 for sequence in sequences}])
            found.append(Step(spans, seconds_of(engine.step, clock)))
        return [step for step in found if len(step.spans) == len(lengths)]
    finally:
        for name in names:
            engine.abort(name)
