"""Whole traces under a simulated clock: the same twice, bounded by an endless cache, coarser where asked."""

from __future__ import annotations

import dataclasses
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvloom.config import SchedulerConfig
from kvloom.errors import ConfigError
from kvloom.model.kv_map import KvMap, LayerKv
from kvloom.policy.cost import PrefillCost
from kvloom.simulate.clock import SimulatedClock
from kvloom.simulate.coarse import coarse_shape
from kvloom.simulate.endless import EndlessCache
from kvloom.simulate.machines import MACHINES, Machine
from kvloom.simulate.model import NoAttend, Shape, Unbacked
from kvloom.simulate.plan import Tried, overloaded, recommended, tried
from kvloom.simulate.requests import Script, requests_of
from kvloom.simulate.results import Seconds, Summary
from kvloom.simulate.simulation import Setting, simulate
from kvloom.simulate.step_cost import StepCost
from kvloom.simulate.traces.multi_turn import MultiTurn
from kvloom.simulate.traces.trace import Request, Trace, ordered

SMALL = MultiTurn(sessions=8, shared_tokens=64, lengths=(200, 900), answer_tokens=20)
MACHINE = Machine(
    name="small",
    shape=Shape(KvMap(tuple([LayerKv(n, 2, 64, 64, 0.125) for n in range(8)])), 4, 10_000_000, 4096, "weights"),
    cost=StepCost(PrefillCost(2e-3, 1e-3, 1e-6), PrefillCost(5e-3, 1e-4, 1e-6)),
    kv_dtype="float16",
    kv_bytes=64 * 2**20,
    scheduler=SchedulerConfig(step_tokens=128),
)
ROOMY = 2**30
TIGHT = 8 * 2**20


def made(seed: int, block_tokens: int = 16) -> Trace:
    return SMALL.trace(seed, block_tokens)


@pytest.mark.parametrize("retention", ["lru", "asymcache"])
def test_a_trace_comes_to_the_same_twice(retention: str) -> None:
    setting = Setting(retention, TIGHT)
    first = simulate(made(1), MACHINE, setting)
    assert first == simulate(made(1), MACHINE, setting)
    assert first.evictions > 0
    assert first.recompute_s > 0
    assert (first.requests, first.refused) == (len(made(1).requests), 0)


def test_with_room_for_everything_all_is_found_that_an_endless_cache_finds() -> None:
    found = simulate(made(2), MACHINE, Setting("lru", ROOMY))
    assert found.block_hits == found.endless_block_hits > 0.5
    assert found.saved == pytest.approx(found.endless_saved)
    assert (found.recompute_s, found.holes, found.evictions) == (0, 0, 0)


@settings(max_examples=10)
@given(seed=st.integers(0, 1000), tight=st.integers(8, 24), retention=st.sampled_from(["lru", "asymcache", "lfu"]))
def test_no_memory_finds_more_than_an_endless_cache(seed: int, tight: int, retention: str) -> None:
    small = simulate(made(seed), MACHINE, Setting(retention, tight * 2**20))
    large = simulate(made(seed), MACHINE, Setting(retention, ROOMY))
    assert small.endless_block_hits == large.endless_block_hits
    assert small.block_hits <= small.endless_block_hits
    assert small.saved <= small.endless_saved + 1e-12
    assert small.recompute_s >= 0


def test_what_an_endless_cache_knows_is_the_longest_common_beginning() -> None:
    cache, told = EndlessCache(16), []
    for request in made(3).requests:
        text = made(3).contents(request, 2**31)
        prompt = text[: request.input_tokens]
        longest = max((_common(prompt, other) for other in told), default=0)
        assert cache.known(request.blocks, request.input_tokens) == longest
        cache.store(request.blocks, request.tokens)
        told.append(text)


def _common(a: list[int], b: list[int]) -> int:
    return next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def test_answers_are_those_of_the_trace() -> None:
    for request in made(4).requests:
        script = Script()
        said = script.prompt(request, request.input_tokens)
        for _ in range(request.output_tokens):
            said.append(script.say(said[-1]))
        assert said == Script().prompt(request, request.tokens)


def test_requests_that_can_never_fit_are_refused_and_counted() -> None:
    long = Request(0.0, 0, "answer", 5000, 10, tuple(range(1000, 1320)))
    found = simulate(ordered("long", 16, [long, *made(5).requests]), MACHINE, Setting("lru", ROOMY))
    assert (found.refused, found.requests) == (1, 1 + len(made(5).requests))
    alone = simulate(ordered("long", 16, [long]), MACHINE, Setting("lru", ROOMY))
    assert alone.ttft == Seconds(0.0, 0.0, 0.0, 0.0)


def test_a_coarser_simulation_costs_and_holds_as_much() -> None:
    one = Request(0.0, 0, "answer", 1024, 1, tuple(range(65)))
    fine = simulate(ordered("one", 16, [one]), MACHINE, Setting("lru", ROOMY))
    coarse = replace(one, blocks=tuple(range(9)))
    found = simulate(ordered("one", 128, [coarse]), MACHINE, Setting("lru", ROOMY))
    assert found.ttft.mean == pytest.approx(fine.ttft.mean, rel=1e-9)
    assert found.seconds == pytest.approx(fine.seconds, rel=1e-9)


def test_a_coarser_trace_comes_to_about_the_same() -> None:
    trace = replace(SMALL, sessions=12, lengths=(2000, 4000), shared_tokens=256)
    shape = replace(MACHINE.shape, context_length=16_384)
    machine = replace(MACHINE, shape=shape)
    fine, coarse = (simulate(trace.trace(6, n), machine, Setting("lru", 200 * 2**20)) for n in (16, 64))
    assert coarse.ttft.mean == pytest.approx(fine.ttft.mean, rel=0.1)
    assert coarse.block_hits == pytest.approx(fine.block_hits, abs=0.05)


def test_windows_are_as_many_tokens_wide() -> None:
    fine = Shape(
        KvMap(tuple([LayerKv(n, 2, 64, 64, 0.125, window) for n, window in enumerate((None, 512))])), 4, 1, 4096, "x"
    )
    coarse = coarse_shape(fine, 32)
    assert [(kv.heads, kv.window) for kv in coarse.kv_map.layers] == [(64, None), (64, 16)]
    assert coarse.context_length == 128
    assert coarse_shape(fine, 1) == fine


def test_blocks_that_are_no_pages_are_refused() -> None:
    with pytest.raises(ConfigError, match="no whole number of pages"):
        requests_of(made(1, 24), Script())


def test_faster_arrivals_wait_longer() -> None:
    slow, fast = (simulate(made(7), MACHINE, Setting("lru", ROOMY), speed) for speed in (1.0, 1000.0))
    assert fast.ttft.mean > slow.ttft.mean
    assert fast.seconds < slow.seconds


def test_a_hundred_gigabytes_take_no_memory() -> None:
    machine = MACHINES["llama-8b-h20"]()
    found = simulate(made(8), machine, Setting("asymcache", 100 * 2**30))
    assert found.block_hits == found.endless_block_hits
    assert len(Unbacked(100 * 2**30).memory) == 0


@pytest.mark.parametrize(("name", "seconds"), [("llama-8b-h20", 9.1), ("llama-8b-h100", 1.35), ("llama-8b-a100", 4.3)])
def test_data_sheets_say_how_long_a_prompt_takes(name: str, seconds: float) -> None:
    machine = MACHINES[name]()
    assert machine.cost.prefill.block(0, 34_800) == pytest.approx(seconds, rel=0.03)
    assert machine.name == name
    assert 128 * 1024 * 400_000 < machine.kv_bytes < 128 * 1024 * 600_000


def test_what_is_to_happen_happens_at_its_time_and_in_order() -> None:
    clock, heard = SimulatedClock(), []
    clock.after(2.0, lambda: heard.append(("late", clock())))
    clock.after(1.0, lambda: heard.append(("first", clock())))
    clock.after(1.0, lambda: clock.after(0.5, lambda: heard.append(("nested", clock()))))
    never = clock.after(1.2, lambda: heard.append(("never", clock())))
    never.cancel()
    assert not never.is_alive()
    clock.wait(10.0)
    assert heard == [("first", 1.0)]
    clock.advance(0.75)
    assert heard == [("first", 1.0), ("nested", 1.5)]
    clock.wait(0.1)
    assert (clock(), len(heard)) == (1.85, 2)
    clock.wait(10.0)
    assert heard[2:] == [("late", 2.0)]
    clock.wait(1.0)
    assert clock() == 3.0


def test_time_never_goes_back() -> None:
    clock = SimulatedClock()
    clock.advance(1.5)
    assert clock() == 1.5
    for seconds in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="cannot advance"):
            clock.advance(seconds)


def test_nothing_attends() -> None:
    assert {name for name in vars(NoAttend) if not name.startswith("_")} == {"write", "attend", "observe"}


def result(retention: str, kv_bytes: int, ttft_s: float, refused: int = 0) -> Tried:
    fields = {field.name: 0 for field in dataclasses.fields(Summary)}
    seconds = Seconds(ttft_s, ttft_s, ttft_s, ttft_s)
    return Tried(Setting(retention, kv_bytes), Summary(**fields | {"ttft": seconds, "refused": refused}))


def test_the_least_memory_that_is_about_as_good_is_recommended() -> None:
    results = [
        *(result("lru", 1, 9.0), result("asymcache", 1, 2.5)),
        *(result("lru", 2, 2.1), result("asymcache", 2, 2.05)),
        *(result("lru", 4, 2.0), result("asymcache", 4, 2.0)),
    ]
    assert recommended(results).setting == Setting("asymcache", 2)
    assert recommended([result("lru", 1, 0.0, refused=5), *results]).setting == Setting("asymcache", 2)
    assert recommended([result("lru", 1, 1.0), result("lfu", 1, 1.0)]).setting.retention == "lru"


def test_all_settings_are_tried_in_order_and_a_backlog_is_told() -> None:
    choices, ended = [Setting("lru", TIGHT), Setting("lfu", ROOMY)], []
    results = list(tried(made(9), MACHINE, choices, on_end=lambda: ended.append(1)))
    assert [each.setting for each in results] == choices
    assert len(ended) == 2 * len(made(9).requests)
    assert not overloaded(results[0], made(9), MACHINE)
    slow = replace(MACHINE, cost=StepCost(PrefillCost(0.0, 0.05, 0.0), PrefillCost(0.05, 0.0, 0.0)))
    (late,) = tried(made(9), slow, choices[1:], speed=1000.0)
    assert overloaded(late, made(9), slow)
