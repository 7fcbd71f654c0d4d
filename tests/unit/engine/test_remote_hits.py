"""Engines that share KV through a real server: the same answers, whatever becomes of the server or of what it keeps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from typing import TYPE_CHECKING

import pytest

import tiny
from kvloom.config import parse_faults
from kvloom.engine.cache_params import CacheParams
from kvloom.engine.params import SamplingParams
from kvloom.memory.tier.faulty import FaultyTier
from kvloom.memory.tier.remote import RemoteTier
from remote_cases import make

if TYPE_CHECKING:
    from valkey_server import RunningValkey

GREEDY = SamplingParams(temperature=0.0, max_tokens=6, ignore_eos=True)
PROMPT = tiny.random_prompt(100, 1)
WINDOWS = (40, None, 40)


@cache
def expected() -> list[int]:
    return tiny.oracle(WINDOWS, PROMPT, 6)


@pytest.fixture
def tier_of(valkey: RunningValkey) -> Iterator[Callable[[], RemoteTier]]:
    """Makes a tier at the server that knows what is there."""
    with ExitStack() as closing:

        def made() -> RemoteTier:
            tier = make(valkey, 2**24)
            closing.callback(tier.close)
            tier.refresh()
            return tier

        yield made


def answered(tier: RemoteTier | FaultyTier, params: CacheParams | None = None) -> tiny.Engine:
    """By an engine that has not seen the prompt, and whose clock stands: it waits for the tier, however busy we are."""
    engine = tiny.make_engine(WINDOWS, step_tokens=16, tiers=[tier], clock=lambda: 0.0)
    assert tiny.run(engine, {"a": PROMPT}, GREEDY, cache=params)["a"].tokens[0] == expected()
    assert engine.tiers.flush(10)
    engine.check()
    return engine


def test_what_one_engine_computed_another_loads(tier_of: Callable[[], RemoteTier]) -> None:
    first = answered(tier_of())
    assert first.stats().cache.hit_tokens == 0
    second = answered(tier_of())
    assert second.stats().cache.hit_tokens_by_tier["remote"] == 96
    assert second.stats().cache.tiers["remote"].faults == {}


def test_nothing_is_shared_between_salts(tier_of: Callable[[], RemoteTier]) -> None:
    answered(tier_of(), CacheParams(salt="one"))
    second = answered(tier_of(), CacheParams(salt="other"))
    assert second.stats().cache.hit_tokens == 0


def test_a_server_that_dies_before_the_load(tier_of: Callable[[], RemoteTier], valkey: RunningValkey) -> None:
    answered(tier_of())
    tier = tier_of()
    valkey.kill()
    engine = answered(tier)
    assert engine.stats().cache.hit_tokens == 0
    assert engine.stats().cache.tiers["remote"].faults["failed"] > 0


@pytest.mark.parametrize("fault", ["corrupt", "short", "fail"])
@pytest.mark.parametrize("seed", range(3))
def test_injected_faults_change_no_answer(tier_of: Callable[[], RemoteTier], fault: str, seed: int) -> None:
    answered(tier_of())
    faults = parse_faults(f"remote:{fault}=0.4,seed={seed}")
    engine = answered(FaultyTier(tier_of(), faults))
    counted = engine.stats().cache.tiers["remote"].faults
    assert counted[{"fail": "failed"}.get(fault, fault)] > 0
