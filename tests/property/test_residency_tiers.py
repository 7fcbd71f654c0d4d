"""Tiers that lose, damage and delay what they have: the tokens are those of a cold run, and every byte is accounted."""

from __future__ import annotations

import functools
import random
import threading
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny
from dict_tier import DictTier
from kvloom.engine.cache_params import CacheParams
from kvloom.engine.params import SamplingParams
from kvloom.memory.tier.base import Fault, Place, TierFault
from kvloom.policy.actions import Drop
from kvloom.policy.retention import POLICIES

MODELS = {"dense": (None, None), "hybrid": (24, None, 24), "windows-only": (20, 20), "two-windows": (12, None, 40)}
GREEDY = SamplingParams(temperature=0.0, max_tokens=5, ignore_eos=True)
PROMPTS = [
    tiny.random_prompt(64, 1) + tiny.random_prompt(20 + 9 * n, 10 + n) if n % 2 else tiny.random_prompt(70 + 7 * n, n)
    for n in range(6)
]


@functools.cache
def expected(windows: tuple[int | None, ...], number: int) -> list[int]:
    return tiny.oracle(windows, PROMPTS[number], 5)


class Trouble:
    """Now and then: a fault, a loss, or a wait."""

    def __init__(self, tier: DictTier, seed: int, chance: float) -> None:
        self.tier, self.chance, self.random, self.lock = tier, chance, random.Random(seed), threading.Lock()
        tier.before_read = tier.before_write = self.happens

    def happens(self, place: Place) -> None:
        with self.lock:
            drawn, kind = self.random.random(), self.random.choice(list(Fault))
        if drawn > self.chance:
            return
        if kind is Fault.SLOW:
            threading.Event().wait(0.03)
        elif kind is Fault.GONE:
            self.tier.pages.pop(place, None)
        else:
            raise TierFault(kind, "made to fail")


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from(sorted(MODELS)),
    policy=st.sampled_from(sorted(POLICIES)),
    seed=st.integers(0, 10**6),
    chance=st.sampled_from([0.0, 0.1, 0.5]),
    kilobytes=st.sampled_from([400, 640, 2048]),
)
def test_tokens_are_those_of_a_cold_run(name: str, policy: str, seed: int, chance: float, kilobytes: int) -> None:
    windows, dice = MODELS[name], random.Random(seed)
    tiers = [DictTier("warm"), DictTier("warm_int8"), DictTier("disk")]
    for tier in tiers:
        Trouble(tier, seed, chance)
    engine = tiny.make_engine(
        windows, kv_bytes=f"{kilobytes}KiB", step_tokens=dice.choice([16, 64]), retention=policy, tiers=tiers
    )
    for number in range(3):
        chosen = {f"{number}-{n}": PROMPTS[n] for n in dice.sample(range(len(PROMPTS)), 2)}
        cache = dice.choice([None, None, CacheParams(write=False), CacheParams(match="pages"), CacheParams(lossy=True)])
        done = tiny.run(engine, chosen, GREEDY, cache=cache)
        for each, prompt in chosen.items():
            metrics = done[each].updates[-1].metrics
            assert metrics.lossy_tokens == sum(len(part.span) for part in metrics.reused if part.lossy)
            if cache is None or not cache.lossy:
                assert metrics.lossy_tokens == 0
            if not metrics.lossy_tokens:
                assert done[each].tokens[0] == expected(windows, PROMPTS.index(prompt))
            assert metrics.cached_tokens == sum(len(part.span) for part in metrics.reused if not part.lossy)
            computed = sum(len(miss.span) for miss in metrics.misses)
            assert metrics.cached_tokens + metrics.lossy_tokens + computed == len(prompt)
        if dice.random() < 0.5:
            engine.tiers.flush(10)
        for page in engine.ledger.droppable():
            if dice.random() < 0.6 and page in engine.ledger.events.idle_blocks:
                engine.ledger.apply(Drop(page))
    assert engine.stats().cache.held_pages == 0


@pytest.mark.parametrize("policy", POLICIES)
def test_there_are_hits_from_every_tier(policy: str) -> None:
    tiers = [DictTier("warm"), DictTier("disk")]
    engine = tiny.make_engine(kv_bytes="320KiB", step_tokens=32, retention=policy, tiers=tiers)
    for number in range(3):
        for n, prompt in enumerate(PROMPTS):
            done = tiny.run(engine, {f"{number}-{n}": prompt}, GREEDY)[f"{number}-{n}"]
            assert done.tokens[0] == expected((None, None), n)
            engine.tiers.flush(10)
        if number == 0:
            engine.ledger.reset()  # a warm tier sees no victims of this: the disk has them
    hits = Counter(engine.stats().cache.hit_tokens_by_tier)
    assert hits["ram"] > 0
    assert hits["warm"] > 0
    assert hits["disk"] > 0
