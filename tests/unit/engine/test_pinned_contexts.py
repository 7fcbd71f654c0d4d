"""Pins and prewarming by requests: what is pinned outlives a flood under every policy, and starves nobody."""

from __future__ import annotations

import pytest

import tiny
from kvloom.engine.cache_params import CacheParams, Mark
from kvloom.engine.params import SamplingParams
from kvloom.policy.retention import POLICIES
from timed import Clock

GREEDY = SamplingParams(temperature=0.0, max_tokens=6, ignore_eos=True)
PREWARM = SamplingParams(temperature=0.0, max_tokens=0)
PROMPT = tiny.random_prompt(71, 1)


def cached(engine: tiny.Engine, prompt: list[int] = PROMPT, cache: CacheParams | None = None) -> int:
    found: int = tiny.run(engine, {"x": prompt}, GREEDY, cache=cache)["x"].updates[-1].metrics.cached_tokens
    return found


def flood(engine: tiny.Engine, seed: int = 100) -> None:
    """Several times what the memory has room for; some of it more dear to its requests than the default."""
    for n in range(12):
        cache = CacheParams(priority=100 if n % 3 == 0 else 50)
        tiny.run(engine, {f"flood{n}": tiny.random_prompt(120, seed + n)}, GREEDY, cache=cache)


@pytest.mark.parametrize("policy", POLICIES)
def test_what_is_pinned_outlives_a_flood_and_not_its_time(policy: str) -> None:
    clock = Clock()
    engine = tiny.make_engine(kv_bytes=300_000, retention=policy, max_pinned_share=0.5, clock=clock)
    cached(engine, cache=CacheParams(pin_s=60.0))
    for _ in range(3):  # in use again and again: pinned anew each time
        clock.now_s += 50
        flood(engine)
        assert cached(engine) == len(PROMPT) - 1
    clock.now_s += 61
    flood(engine)
    stats = engine.stats().cache
    assert (stats.pinned_bytes, stats.pins_refused_bytes, stats.pins_broken_bytes) == (0, 0, 0)
    assert stats.evicted_pages


def test_more_than_may_be_pinned_is_counted_and_kept_like_any_other() -> None:
    clock = Clock()
    engine = tiny.make_engine(kv_bytes=300_000, max_pinned_share=0.2, clock=clock)
    for seed in range(3):
        cached(engine, tiny.random_prompt(71, seed), CacheParams(pin_s=60.0))
    stats = engine.stats().cache
    assert 0 < stats.pinned_bytes <= 60_000
    assert stats.pins_refused_bytes > 0
    flood(engine)
    assert cached(engine, tiny.random_prompt(71, 0)) >= 64, "who came first"
    assert cached(engine, tiny.random_prompt(71, 2)) == 0


@pytest.mark.parametrize("policy", POLICIES)
def test_a_request_that_needs_the_room_gets_it(policy: str) -> None:
    """Also one that arrives while another is running, and whose answer grows."""
    clock = Clock()
    engine = tiny.make_engine(kv_bytes=300_000, retention=policy, max_pinned_share=1.0, clock=clock)
    for seed in range(6):
        cached(engine, tiny.random_prompt(71, seed), CacheParams(pin_s=1e6))
    assert engine.stats().cache.pinned_bytes > 150_000
    longest = tiny.random_prompt(engine.max_len - 20, 9)
    params = SamplingParams(temperature=0.0, max_tokens=16, ignore_eos=True)
    alone = tiny.run(tiny.make_engine(), {"x": longest}, params)["x"].tokens
    assert tiny.run(engine, {"long": longest, "other": tiny.random_prompt(40, 10)}, params)["long"].tokens == alone
    assert engine.stats().cache.pins_broken_bytes > 0


def test_a_prompt_can_be_prewarmed() -> None:
    """Nothing is answered; who asks then finds all of it, and nobody else's salt does."""
    engine = tiny.make_engine()
    done = tiny.run(engine, {"x": PROMPT}, PREWARM, cache=CacheParams(pin_s=60.0))["x"]
    assert (done.tokens.get(0, []), done.reasons[0]) == ([], "length")
    assert done.updates[-1].metrics.computed_tokens == len(PROMPT)
    assert engine.stats().generated_tokens == 0
    assert engine.stats().cache.pinned_bytes > 0
    assert cached(engine, cache=CacheParams(salt="another")) == 0
    expected = tiny.run(tiny.make_engine(), {"x": PROMPT}, GREEDY)["x"].tokens
    again = tiny.run(engine, {"x": PROMPT}, GREEDY)["x"]
    assert again.updates[-1].metrics.cached_tokens == len(PROMPT) - 1
    assert again.tokens == expected


def test_a_mark_pins_a_beginning_and_no_more() -> None:
    """The rest of the prompt goes like any other KV; of two marks that reach a page the longer time counts."""
    clock = Clock()
    engine = tiny.make_engine(kv_bytes=300_000, max_pinned_share=0.5, clock=clock)
    marks = (Mark(32, 3600.0), Mark(48, 60.0))
    cached(engine, cache=CacheParams(marks=marks))
    assert engine.stats().cache.pinned_bytes < 0.8 * pinned_whole()
    clock.now_s += 50
    flood(engine)
    assert cached(engine, cache=CacheParams(write=False)) == 48
    clock.now_s += 61
    flood(engine)
    assert cached(engine, cache=CacheParams(write=False)) == 32
    clock.now_s += 3601
    flood(engine)
    assert cached(engine) == 0


def pinned_whole() -> int:
    engine = tiny.make_engine(kv_bytes=300_000, max_pinned_share=0.5)
    cached(engine, cache=CacheParams(pin_s=60.0))
    return engine.stats().cache.pinned_bytes
