"""A guard and kept results: who is guarded needs the exact KV of the context as well."""

from __future__ import annotations

import tiny
from kvloom.engine.cache_params import CacheParams, Guard
from kvloom.engine.params import SamplingParams
from kvloom.policy.compression import compression_of

PARAMS = SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True)
PROMPT = tiny.random_prompt(103, 1)


def test_who_is_guarded_neither_finds_nor_leaves_a_result() -> None:
    engine = tiny.make_engine()
    plain = CacheParams(compression=compression_of("h2o", 0.6), compress_after=90)
    guarded = CacheParams(compression=plain.compression, compress_after=90, guard=Guard(every=4, drift=1e6))
    first = tiny.run(engine, {"g": PROMPT}, PARAMS, cache=guarded)["g"]
    assert len(engine.results) == 0
    found = tiny.run(engine, {"p": PROMPT}, PARAMS, cache=plain)["p"]
    assert len(engine.results) == 1
    again = tiny.run(engine, {"h": PROMPT}, PARAMS, cache=guarded)["h"]
    engine.check()
    for done in (first, again):
        report = done.updates[-1].metrics.guard
        assert report is not None
        assert report.checks == 3
        assert done.tokens == found.tokens
    assert again.updates[-1].metrics.cached_tokens < 90, "all rows of the context are looked at"
