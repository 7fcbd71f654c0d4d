"""Fair shares by session: a burst of small requests does not flush a long session that is in use."""

from __future__ import annotations

import pytest

import tiny
from kvloom.engine.cache_params import CacheParams
from kvloom.engine.params import SamplingParams
from kvloom.engine.returning import Returning
from kvloom.errors import ConfigError
from kvloom.policy.retention import POLICIES
from kvloom.policy.retention.session_share import ACTIVE_S
from timed import Clock

GREEDY = SamplingParams(temperature=0.0, max_tokens=6, ignore_eos=True)
LONG = tiny.random_prompt(100, 1)
AGENT = CacheParams(session="agent")


def cached(engine: tiny.Engine, prompt: list[int], cache: CacheParams | None = None) -> int:
    found: int = tiny.run(engine, {"x": prompt}, GREEDY, cache=cache)["x"].updates[-1].metrics.cached_tokens
    return found


def burst(engine: tiny.Engine, named: bool, seed: int = 100, requests: int = 40) -> None:
    """Of small requests, each of nobody, or of a session of its own."""
    for n in range(requests):
        cache = CacheParams(session=f"side-{seed + n}") if named else None
        tiny.run(engine, {f"side{n}": tiny.random_prompt(30, seed + n)}, GREEDY, cache=cache)


def asked_twice(engine: tiny.Engine) -> None:
    cached(engine, LONG[:60], AGENT)
    cached(engine, LONG, AGENT)


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("policy", POLICIES)
def test_a_burst_of_one_off_requests_does_not_flush_a_session(policy: str, named: bool) -> None:
    clock = Clock()
    engine = tiny.make_engine(kv_bytes=300_000, retention=policy, session_share=0.6, clock=clock)
    asked_twice(engine)
    for seed in (100, 200):
        clock.now_s += ACTIVE_S / 2
        burst(engine, named, seed)
        assert cached(engine, LONG, AGENT) == len(LONG) - 1
    assert engine.stats().cache.evicted_pages
    engine.check()


def test_a_session_that_is_idle_holds_nothing() -> None:
    clock = Clock()
    engine = tiny.make_engine(kv_bytes=300_000, session_share=0.6, clock=clock)
    asked_twice(engine)
    clock.now_s += 1.01 * ACTIVE_S
    burst(engine, named=False)
    assert cached(engine, LONG, AGENT) < len(LONG) // 2


def test_without_a_share_the_burst_would() -> None:
    engine = tiny.make_engine(kv_bytes=300_000, session_share=0.0, clock=Clock())
    asked_twice(engine)
    burst(engine, named=False)
    assert cached(engine, LONG, AGENT) < len(LONG) // 2


def test_answers_are_the_same_and_all_of_the_memory_can_be_had() -> None:
    """A request that needs the room of a session gets it."""
    longest = None
    said = []
    for share in (0.0, 1.0):
        engine = tiny.make_engine(kv_bytes=300_000, session_share=share, clock=Clock())
        for seed in range(4):
            for _ in range(2):
                cached(engine, tiny.random_prompt(71, seed), CacheParams(session=f"s{seed}"))
        longest = tiny.random_prompt(engine.max_len - 20, 9)
        said.append(tiny.run(engine, {"x": longest}, GREEDY)["x"].tokens)
        engine.check()
    assert said[0] == said[1]


def test_only_who_comes_again_is_a_session() -> None:
    sessions = Returning()
    assert [sessions.number(name) for name in ("a", "b", "a", "b", "a")] == [None, None, 1, 2, 1]
    for n in range(5000):
        sessions.number(f"other-{n}")
    assert sessions.number("a") is None, "names are forgotten in the end"


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(ConfigError, match="session_share"):
        tiny.make_engine(session_share=share)
