"""Requests that would rather lose KV than be preempted."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

import tiny
from kvloom.engine.cache_params import CacheParams
from kvloom.engine.params import SamplingParams
from kvloom.engine.request import Status
from kvloom.engine.scheduler.state import StepPlan
from kvloom.errors import KvloomError, ParamsError
from kvloom.policy.compression import compression_of

MODELS = {"dense": (None, None), "hybrid": (24, None, 24)}
METHODS: dict[str, dict[str, Any]] = {"knorm": {}, "keydiff": {"allocator": "adakv"}, "sink_recent": {}, "leverage": {}}
every_model = pytest.mark.parametrize("windows", MODELS.values(), ids=MODELS)
PARAMS = SamplingParams(temperature=0.0, max_tokens=120, ignore_eos=True)
PROMPTS = [tiny.random_prompt(180, n) for n in range(4)]


def yielding(method: str = "knorm", ratio: float = 0.6) -> CacheParams:
    return CacheParams(compression=compression_of(method, ratio, **METHODS[method]), compress_when="pressure")


def small(windows: tuple[int | None, ...]) -> tiny.Engine:
    """Room for all prompts, but not for their answers."""
    made = tiny.make_engine(windows)
    return tiny.make_engine(windows, kv_bytes=3 * made.layout.bytes_for(200) + made.layout.bytes_for(60))


def drain(engine: tiny.Engine, caches: list[CacheParams | None]) -> dict[str, tiny.Done]:
    for n, cache in enumerate(caches):
        engine.submit(str(n), PROMPTS[n], PARAMS, cache=cache)
    return tiny.drain(engine, [str(n) for n in range(len(caches))])


@every_model
@pytest.mark.parametrize("method", METHODS)
def test_who_allows_it_is_compressed_and_nobody_is_preempted(method: str, windows: tuple[int | None, ...]) -> None:
    """Or fewer are: of what is given up a slab may remain in part, in which lists have no room."""
    engine, other = small(windows), small(windows)
    exact = drain(other, [None] * 4)
    done = drain(engine, [None, yielding(method), yielding(method), yielding(method)])
    assert engine.stats().preemptions < other.stats().preemptions
    assert done["0"].tokens == exact["0"].tokens
    told = [done[str(n)].updates[-1].metrics.compressed for n in range(4)]
    assert told[0] is None
    assert any(told)
    for each in filter(None, told):
        assert (each.ratio, each.budget) == (0.6, None)
        assert each.protected >= 64
        assert each.tokens % 16 == 0
    assert engine.stats().cache.held_bytes == 0


@every_model
def test_with_room_for_all_nothing_changes(windows: tuple[int | None, ...]) -> None:
    engine = tiny.make_engine(windows)
    done = drain(engine, [yielding()] * 4)
    assert {name: each.tokens for name, each in done.items()} == {
        name: each.tokens for name, each in drain(tiny.make_engine(windows), [None] * 4).items()
    }
    assert all(each.updates[-1].metrics.compressed is None for each in done.values())
    again = tiny.run(engine, {"again": PROMPTS[0]}, PARAMS)["again"].updates[-1].metrics
    assert again.cached_tokens > 0


@every_model
def test_audits_hold_at_every_step_and_aborts_give_all_back(windows: tuple[int | None, ...]) -> None:
    engine = small(windows)
    for n in range(4):
        engine.submit(str(n), PROMPTS[n], PARAMS, cache=yielding())
    steps = 0
    while engine.has_work:
        for update in engine.step():
            assert update.error is None
        engine.check()
        steps += 1
        if steps == 90:
            engine.abort("2")
            engine.check()
    assert engine.stats().cache.held_bytes == 0


def test_a_compressed_sequence_that_is_preempted_after_all_begins_anew() -> None:
    engine, plan = tiny.make_engine(), StepPlan(64)
    engine.submit("x", PROMPTS[0], PARAMS, cache=yielding())
    for _ in range(20):
        engine.step()
    sequence = engine.requests["x"].sequences[0]
    assert engine.preempt.make_room(sequence, engine.scheduler.queues, plan), "compressed"
    assert sequence.kv.replaced > 128
    engine.check()
    assert not engine.preempt.make_room(sequence, engine.scheduler.queues, plan), "too little is exact"
    assert sequence.request.metrics.preemptions == 1
    engine.check()
    assert tiny.drain(engine, ["x"])["x"].updates[-1].metrics.compressed is None


def test_who_asked_for_room_may_have_to_give_way_before_another_is_compressed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists may lie in other slabs than what they replace. Who asked is told that it runs no more."""

    class Late:
        kept: ClassVar[dict[int, tuple[int, ...]]] = {}
        tries = 0

        def carry_out(self) -> bool:
            self.tries += 1
            return self.tries > 1

    engine, plan = tiny.make_engine(), StepPlan(64)
    for name, cache in (("x", yielding()), ("y", None)):
        engine.submit(name, PROMPTS[0], PARAMS, cache=cache)
    for _ in range(20):
        engine.step()
    squeezed, asking = (engine.requests[name].sequences[0] for name in "xy")
    monkeypatch.setattr(engine.preempt.squeeze, "decided", lambda queues, plan: (squeezed, Late()))
    assert not engine.preempt.make_room(asking, engine.scheduler.queues, plan)
    assert (asking.status, squeezed.status) == (Status.WAITING, Status.RUNNING)
    monkeypatch.undo()
    engine.check()
    tiny.drain(engine, ["x", "y"])
    assert engine.stats().cache.held_bytes == 0


def test_a_method_that_fails_ends_its_request_and_the_others_get_its_room() -> None:
    engine = small((None, None))
    steep = compression_of("knorm", 0.95, allocator="depthkv")
    bad = CacheParams(compression=steep, compress_when="pressure")
    done = drain(engine, [None, None, None, bad])
    error = done["3"].updates[-1].error
    assert isinstance(error, ParamsError)
    assert all(len(done[str(n)].tokens[0]) == 120 for n in range(3))


@pytest.mark.parametrize(
    ("words", "more", "says"),
    [
        ({"ratio": 0.5}, {"compress_after": 5}, "nothing that says when"),
        ({"budget": 10**6}, {}, "a ratio"),
        (None, {}, "a compression"),
    ],
)
def test_what_makes_no_sense_is_refused(words: dict[str, Any] | None, more: dict[str, Any], says: str) -> None:
    compression = None if words is None else compression_of("knorm", **words)
    with pytest.raises(KvloomError, match=says) as caught:
        CacheParams(compression=compression, compress_when="pressure", **more)
    assert isinstance(caught.value, ParamsError)
    assert caught.value.param == "compress_when"


@pytest.mark.parametrize("method", ["kvzap", "h2o", "snapkv", "expected_attention", "kvzip", "laq"])
def test_methods_that_look_on_are_refused(method: str) -> None:
    with pytest.raises(ParamsError, match="cannot be foreseen"):
        CacheParams(compression=compression_of(method, 0.5), compress_when="pressure")
