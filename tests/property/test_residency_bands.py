"""Requests that come and go while memory is short, begun by bands wherever there is room for one, with tiers that lose,
refuse and delay: the tokens are those of an engine that has room for everything, and every page is accounted for.
"""

from __future__ import annotations

import functools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny
from dict_tier import DictTier
from kvloom.engine.params import SamplingParams
from kvloom.engine.tiers import tiers as tiers_of
from property.test_residency_tiers import Trouble

MODELS = {"full": (None,) * 4, "hybrid": (None, 24, 24, None)}
PROMPTS = [tiny.random_prompt(100 + 60 * n, n) for n in range(5)]
PROMPTS.append(PROMPTS[3][:150] + tiny.random_prompt(90, 9))


def greedy(tokens: int) -> SamplingParams:
    return SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True)


@functools.cache
def expected(windows: tuple[int | None, ...], number: int) -> list[int]:
    return tiny.run(tiny.make_engine(windows), {"a": PROMPTS[number]}, greedy(40))["a"].tokens[0]


@pytest.fixture(autouse=True)
def begun_wherever_possible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiers_of, "_OFFLOAD_PATIENCE_S", 0.2)
    monkeypatch.setattr("kvloom.engine.scheduler.bands.Bands._worthwhile", lambda self, *_: self.tiers.levels[0])
    monkeypatch.setattr("kvloom.engine.scheduler.state.StepPlan.has_time", lambda self, *_: True)


BEGUN: list[int] = []


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from(sorted(MODELS)),
    bands=st.sampled_from([2, 4]),
    seed=st.integers(0, 10**6),
    chance=st.sampled_from([0.0, 0.02, 0.3]),
)
def test_tokens_are_those_of_an_engine_with_room(name: str, bands: int, seed: int, chance: float) -> None:
    windows, dice = MODELS[name], random.Random(seed)
    tiers = [DictTier("warm"), DictTier("disk")]
    for tier in tiers:
        Trouble(tier, seed, chance)
    engine = tiny.make_engine(windows, bands=bands, kv_bytes=1_250_000, step_tokens=32, tiers=tiers)
    tokens: dict[str, list[int]] = {}
    wanted: dict[str, tuple[int, int]] = {}
    steps = 0
    while engine.has_work or len(wanted) < 7:
        if len(wanted) < 7 and (dice.random() < 0.2 or not engine.has_work):
            request, number, length = f"r{len(wanted)}", dice.randrange(len(PROMPTS)), dice.choice([1, 5, 40])
            wanted[request], tokens[request] = (number, length), []
            engine.submit(request, PROMPTS[number], greedy(length))
        if dice.random() < 0.01 and engine.requests:
            gone = dice.choice(sorted(engine.requests))
            engine.abort(gone)
            del tokens[gone]
        if not engine.runnable:
            engine.sleep(0.3)
        for update in engine.step():
            for delta in update.deltas:
                tokens.setdefault(update.request_id, []).extend(delta.token_ids)
        engine.check()
        steps += 1
        assert steps < 3000, "it does not come to an end"
    for request, found in tokens.items():
        number, length = wanted[request]
        assert found == expected(windows, number)[:length]
    assert engine.ledger.held_pages == 0
    BEGUN.append(engine.bands.begun)


def test_some_were_begun_by_bands() -> None:
    assert any(BEGUN) or not BEGUN, "the test above says nothing then"
