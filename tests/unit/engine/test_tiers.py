"""What the engine does with tiers: KV that has left RAM comes back, or is computed, and the answer is the same."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest

import tiny
from dict_tier import DictTier
from kvloom.engine import async_engine
from kvloom.engine.async_engine import AsyncEngine
from kvloom.engine.cache_params import CacheParams
from kvloom.engine.params import SamplingParams
from kvloom.engine.tiers import Load, Wanted
from kvloom.engine.tiers import tiers as tiers_of
from kvloom.memory.tier.base import Fault, Place, TierFault
from kvloom.policy.compression import compression_of
from kvloom.policy.tier_cost import TierCost
from kvloom.segment import PageId, Reused, Span, Why

GREEDY = SamplingParams(temperature=0.0, max_tokens=6, ignore_eos=True)
PROMPT = tiny.random_prompt(100, 1)
MODELS = {"dense": (None, None), "hybrid": (40, None, 40), "windows": (24, 24)}


@pytest.fixture(autouse=True)
def patient(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine may take its time, but where that is what is tested."""
    if "hangs" not in request.node.name:
        monkeypatch.setattr(tiers_of, "_LEAST_PATIENCE_S", 60.0)


def forget(engine: tiny.Engine) -> None:
    """Empty RAM, and nothing else, once everything is written."""
    assert engine.tiers.flush(10)
    engine.ledger.reset()
    engine.check()


def filled(windows: tuple[int | None, ...] = (None, None)) -> tuple[tiny.Engine, list[int], DictTier]:
    """An engine that has answered the prompt, and now has its KV in a tier alone."""
    tier = DictTier()
    engine = tiny.make_engine(windows, step_tokens=16, tiers=[tier])
    answer = tiny.run(engine, {"a": PROMPT}, GREEDY)["a"].tokens[0]
    assert answer == tiny.oracle(windows, PROMPT, 6)
    forget(engine)
    return engine, answer, tier


def again(engine: tiny.Engine, name: str = "b", cache: CacheParams | None = None) -> tiny.Done:
    return tiny.run(engine, {name: PROMPT}, GREEDY, cache=cache)[name]


@pytest.mark.parametrize("windows", MODELS.values(), ids=MODELS)
def test_what_a_tier_has_is_not_computed(windows: tuple[int | None, ...]) -> None:
    engine, answer, tier = filled(windows)
    done = again(engine)
    assert done.tokens[0] == answer
    metrics = done.updates[-1].metrics
    assert metrics.cached_tokens == 96
    assert metrics.computed_tokens == 4 + 5
    needed = 32 if None not in windows else 96  # below, no row sees anything
    assert metrics.reused[-1] == Reused(Span(96 - needed, 96), "disk")
    stats = engine.stats().cache
    assert stats.hit_tokens_by_tier["disk"] == needed
    assert stats.tiers["disk"].loaded_pages == len(tier.reads) > 0
    assert stats.tiers["disk"].faults == {}
    after = again(engine, "c")
    assert after.tokens[0] == answer
    assert after.updates[-1].metrics.reused == [Reused(Span(0, 99), "ram")]


@pytest.mark.parametrize("windows", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("bad", range(2))
@pytest.mark.parametrize("fault", [Fault.CORRUPT, Fault.GONE])
def test_what_a_tier_does_not_deliver_is_computed(windows: tuple[int | None, ...], bad: int, fault: Fault) -> None:
    engine, answer, tier = filled(windows)

    def fails(place: Place) -> None:
        if len(tier.reads) % 2 == bad:
            tier.reads.append(place)
            raise TierFault(fault, "made to fail")

    tier.before_read = fails
    done = again(engine)
    assert done.tokens[0] == answer
    metrics = done.updates[-1].metrics
    lost = [miss for miss in metrics.misses if miss.why is Why.NOT_LOADED]
    assert lost
    computed = sum(len(miss.span) for miss in metrics.misses)
    assert metrics.cached_tokens + computed == 100
    assert sum(len(part.span) for part in metrics.reused) == metrics.cached_tokens
    stats = engine.stats().cache
    assert stats.tiers["disk"].faults[fault.value] > 0
    assert stats.misses_by_why["not-loaded"] == sum(len(miss.span) for miss in lost)
    tier.before_read = lambda place: None
    assert again(engine, "c").tokens[0] == answer


def wait_for(gate: threading.Event) -> Callable[[Place], None]:
    def wait(place: Place) -> None:
        gate.wait(60)

    return wait


def test_a_tier_that_hangs_is_given_up() -> None:
    engine, answer, tier = filled()
    gate = threading.Event()
    tier.before_read = wait_for(gate)
    done = again(engine)
    assert done.tokens[0] == answer
    assert engine.stats().cache.tiers["disk"].faults["slow"] == 6
    assert engine.stats().cache.held_pages == 0
    gate.set()  # what is still read is written nowhere
    assert again(engine, "c").tokens[0] == answer
    engine.check()


@pytest.mark.parametrize("end", ["abort", "preempt"])
def test_who_waits_for_a_load_can_be_stopped(end: str) -> None:
    engine, answer, tier = filled()
    gate = threading.Event()
    tier.before_read = wait_for(gate)
    engine.submit("b", PROMPT, GREEDY)
    engine.step()
    (sequence,) = engine.requests["b"].sequences
    load = sequence.kv.load
    assert load is not None
    if end == "abort":
        assert engine.abort("b") is not None
    else:
        engine.preempt._preempt(sequence, engine.scheduler.queues, engine.scheduler.schedule())
    assert load.cancelled
    engine.check()
    tier.before_read = lambda place: None
    gate.set()
    if end == "preempt":
        assert tiny.drain(engine, ["b"])["b"].tokens[0] == answer
    assert again(engine, "c").tokens[0] == answer


def test_others_wait_for_what_one_loads() -> None:
    engine, answer, tier = filled()
    done = tiny.run(engine, {"b": PROMPT, "c": PROMPT}, GREEDY)
    assert done["b"].tokens[0] == done["c"].tokens[0] == answer
    assert len(tier.reads) == 6
    assert done["c"].updates[-1].metrics.reused == [Reused(Span(0, 96), "ram")]


def test_permissions_and_salts_hold_for_tiers() -> None:
    engine, answer, tier = filled()
    for name, cache in {"r": CacheParams(read=False), "s": CacheParams(salt="other")}.items():
        assert again(engine, name, cache).updates[-1].metrics.cached_tokens == 0
        assert tier.reads == []
        forget(engine)
    tier.clear()
    assert again(engine, "w", CacheParams(write=False)).tokens[0] == answer
    assert engine.tiers.flush(10)
    assert tier.pages == {}


def test_a_page_that_is_dropped_before_its_turn_is_missed_and_never_written_wrong() -> None:
    gate, tier = threading.Event(), DictTier()
    tier.before_write = wait_for(gate)
    engine = tiny.make_engine(step_tokens=16, tiers=[tier])
    answer = tiny.run(engine, {"a": PROMPT}, GREEDY)["a"].tokens[0]
    engine.ledger.reset()
    gate.set()
    assert engine.tiers.flush(10)
    assert engine.stats().cache.tiers["disk"].missed_pages >= 5
    assert len(tier.pages) <= 1
    assert again(engine).tokens[0] == answer


def test_reset_forgets_what_tiers_have(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, answer, tier = filled()
    gate, clear = threading.Event(), tier.clear
    monkeypatch.setattr(tier, "clear", lambda: gate.wait(60) and clear())
    engine.reset_cache()
    assert again(engine).updates[-1].metrics.cached_tokens == 0, "while it clears, a tier has nothing"
    engine.ledger.reset()
    gate.set()
    assert engine.tiers.flush(10)
    assert tier.pages == {}
    done = again(engine, "c")
    assert done.tokens[0] == answer
    assert done.updates[-1].metrics.cached_tokens == 0


def test_victims_go_to_a_warm_tier() -> None:
    tier = DictTier(name="warm")
    engine = tiny.make_engine(kv_bytes="192KiB", step_tokens=16, tiers=[tier])
    answer = tiny.run(engine, {"a": PROMPT}, GREEDY)["a"].tokens[0]
    assert tier.pages == {}
    for seed in range(2, 8):
        tiny.run(engine, {f"x{seed}": tiny.random_prompt(100, seed)}, GREEDY)
    assert engine.stats().cache.evicted_pages > 0
    assert len(tier.pages) > 0
    done = again(engine)
    assert done.tokens[0] == answer
    assert "warm" in {part.tier for part in done.updates[-1].metrics.reused}


def test_closing_writes_what_waits() -> None:
    tier = DictTier()
    engine = tiny.make_engine(step_tokens=16, tiers=[tier])
    tiny.run(engine, {"a": PROMPT}, GREEDY)
    engine.close()
    assert len(tier.pages) == 6
    assert tier.closed


async def test_what_arrives_wakes_an_engine_that_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(async_engine, "_IDLE_S", 120)
    core, answer, tier = filled()
    engine = AsyncEngine.over(core, tiny.CharTokenizer(), "tiny")
    tier.before_read = lambda place: time.sleep(0.005)
    outputs = [output async for output in engine.generate(PROMPT, GREEDY)]
    assert outputs[-1].outputs[0].token_ids == answer
    assert outputs[-1].metrics.reused == [Reused(Span(0, 96), "disk")]
    engine.close()
    assert tier.closed


@pytest.mark.parametrize("windows", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("name", ["knorm", "snapkv", "kvzip"])
def test_what_is_compressed_may_come_from_a_tier(name: str, windows: tuple[int | None, ...]) -> None:
    cache = CacheParams(compression=compression_of(name, 0.5), compress_after=90)
    expected = again(tiny.make_engine(windows, step_tokens=16), "x", cache)
    engine, _, tier = filled(windows)
    done = again(engine, "b", cache)
    assert done.tokens == expected.tokens
    assert len(tier.reads) > 0
    assert done.updates[-1].metrics.compressed.kept == expected.updates[-1].metrics.compressed.kept
    assert engine.stats().cache.held_pages == 0


def test_a_tier_is_passed_over_once_a_request_however_often_that_is_looked_up() -> None:
    engine, answer, _ = filled()
    engine.tiers.level("disk").rate.assumed = TierCost(1.0, 3600.0)  # computing is faster, on any machine
    done = tiny.run(engine, {"b": PROMPT, "c": PROMPT, "d": PROMPT}, GREEDY)
    assert [done[name].tokens[0] for name in "bcd"] == [answer] * 3
    assert engine.stats().cache.tiers["disk"].passed_over == 1, "the others wait for the first, and find it in RAM"
    assert engine.stats().cache.tiers["disk"].loaded_pages == 0


def test_who_waits_for_its_turn_is_not_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as the tier delivers something to somebody; and then not at once."""
    engine, _, tier = filled()
    now = [100.0]
    engine.tiers.clock = lambda: now[0]
    (level,) = engine.tiers.levels
    asked: list[Load] = []
    monkeypatch.setattr(level, "reader", SimpleNamespace(read=asked.append))
    place = next(iter(tier.pages))
    wanted = [Wanted(0, 0, tier, place, tier.pages[place].tokens, len(tier.pages[place].data)) for _ in range(2)]
    first, second = (engine.tiers.begin({each: PageId(0)}, 0.0) for each in wanted)
    assert asked == [first, second]
    now[0] += 1.0
    assert engine.tiers.heard_s(second) == 100.0
    first.read(first.next_from(tier), memoryview(bytearray(wanted[0].size)))
    engine.tiers.learn(first.take())
    assert engine.tiers.heard_s(second) == 101.0, "the tier is alive"
    now[0] += 1.0
    assert second.next_from(tier) is wanted[1]
    assert second.began_s == engine.tiers.heard_s(second) == 102.0, "its turn"
    now[0] += 1.0
    engine.tiers.learn(first.take())
    level.heard_s = now[0]
    assert engine.tiers.heard_s(second) == 102.0, "others' pages do not count any more"
    for load in (first, second):
        load.close()
