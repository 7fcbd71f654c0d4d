"""Matching in pages: the same answers, and nothing to be learned of what is inside a page."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny
from kvloom.engine.cache_params import CacheParams
from kvloom.engine.outputs import RequestMetrics
from kvloom.engine.params import SamplingParams
from kvloom.segment import Why

GREEDY = SamplingParams(temperature=0.0, max_tokens=5, ignore_eos=True)
MODELS = {"dense": (None, None), "hybrid": (24, None, 24), "windows-only": (20, 20)}
SECRET = tiny.random_prompt(56, 1)


def in_pages(engine: tiny.Engine, name: str, prompt: list[int]) -> tuple[list[int], RequestMetrics]:
    engine.submit(name, prompt, GREEDY, cache=CacheParams(match="pages"))
    done = tiny.drain(engine, [name])[name]
    return done.tokens[0], done.updates[-1].metrics


@pytest.mark.parametrize(("right", "cached"), [(0, 0), (15, 0), (16, 16), (17, 16), (31, 16), (47, 32), (56, 48)])
def test_a_guess_is_told_whole_pages_only(right: int, cached: int) -> None:
    """Neither the count nor the reasons say how much of a page was right."""
    engine = tiny.make_engine()
    tiny.run(engine, {"victim": SECRET}, GREEDY)
    wrong = [token % 96 + 1 for token in SECRET[right:]]
    _, metrics = in_pages(engine, "guess", SECRET[:right] + wrong)
    assert metrics.cached_tokens == cached
    assert metrics.misses[0].span.start == cached
    assert {miss.why for miss in metrics.misses} <= {Why.NEW, Why.TOO_SHORT}


def test_a_prompt_of_whole_pages_counts_whole_pages() -> None:
    engine = tiny.make_engine()
    tiny.run(engine, {"first": SECRET[:48]}, GREEDY)
    tokens, metrics = in_pages(engine, "again", SECRET[:48])
    assert metrics.cached_tokens == 32
    assert [miss.why for miss in metrics.misses] == [Why.LAST_TOKEN]
    assert tokens == tiny.oracle((None, None), SECRET[:48], 5)


@settings(max_examples=30, deadline=None)
@given(name=st.sampled_from(sorted(MODELS)), seed=st.integers(0, 10**6))
def test_answers_are_those_of_the_oracle(name: str, seed: int) -> None:
    windows, chance = MODELS[name], random.Random(seed)
    engine = tiny.make_engine(windows, step_tokens=chance.choice([5, 16, 64]))
    base = tiny.random_prompt(80, seed)
    for n in range(5):
        prompt = base[: chance.randrange(1, 80)] + tiny.random_prompt(chance.randrange(0, 5), n)
        if chance.random() < 0.4:
            tiny.run(engine, {f"r{n}": prompt}, GREEDY)
        else:
            tokens, metrics = in_pages(engine, f"r{n}", prompt)
            assert tokens == tiny.oracle(windows, prompt, 5)
            if name == "dense":
                assert metrics.cached_tokens % 16 == 0
