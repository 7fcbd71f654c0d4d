"""What an engine tells of contexts, step by step: every position once, in the state that it is in."""

from __future__ import annotations

from itertools import pairwise

import pytest

import tiny
from dict_tier import DictTier
from kvloom.engine.cache_params import CacheParams
from kvloom.engine.overview import ContextView, State, Stretch, _coarse, overview
from kvloom.engine.params import SamplingParams
from kvloom.policy.compression import compression_of
from kvloom.segment import Why

GREEDY = SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True)
PROMPT = tiny.random_prompt(150, 3)
METHODS = {
    "exact": None,
    "knorm": compression_of("knorm", 0.5),
    "kvzip": compression_of("kvzip", 0.6, chunk=40),
    "budget": compression_of("knorm", budget=70_000),
}


def look(engine: tiny.Engine, name: str = "x") -> ContextView:
    (context,) = overview(engine, [name, "unknown"]).contexts
    return context


def counts(context: ContextView) -> dict[State, int]:
    found = dict.fromkeys(State, 0)
    for each in context.stretches:
        found[each.state] += each.stop - each.start
    return {state: count for state, count in found.items() if count}


@pytest.mark.parametrize("method", METHODS)
def test_every_position_is_in_one_state_at_every_step(method: str) -> None:
    engine = tiny.make_engine(step_tokens=32)
    engine.submit("x", PROMPT, GREEDY, cache=CacheParams(compression=METHODS[method]))
    seen: list[State] = []
    while engine.has_work:
        context = look(engine)
        ends = [0, *(each.stop for each in context.stretches)]
        assert [each.start for each in context.stretches] == ends[:-1]
        assert ends[-1] == context.length
        assert context.prompt == len(PROMPT)
        seen += counts(context)
        engine.step()
    over = look(engine)
    assert (over.status, over.held_bytes, over.length) == ("over", 0, len(PROMPT) + 12)
    assert State.COMPUTING in seen
    assert (State.COMPRESSED in seen) == (method != "exact")
    assert (over.compressed is None) == (method == "exact")


def test_a_prompt_is_computed_from_left_to_right() -> None:
    engine = tiny.make_engine(step_tokens=64)
    engine.submit("x", PROMPT, GREEDY)
    assert look(engine).stretches == (Stretch(0, 150, State.MISSING, "waiting"),)
    engine.step()
    assert look(engine).stretches == (
        Stretch(0, 64, State.HOT),
        Stretch(64, 128, State.COMPUTING),
        Stretch(128, 150, State.MISSING, "waiting"),
    )


def test_what_was_found_says_where() -> None:
    engine = tiny.make_engine()
    tiny.run(engine, {"first": PROMPT[:96]}, GREEDY)
    engine.submit("x", PROMPT, GREEDY)
    engine.step()
    assert look(engine).stretches[0] == Stretch(0, 96, State.HOT, "ram")


def test_what_has_left_ram_says_where_it_is_or_why_it_is_gone() -> None:
    engine = tiny.make_engine(tiers=[DictTier()])
    tiny.run(engine, {"x": PROMPT}, GREEDY)
    assert counts(look(engine)) == {State.HOT: 162}
    assert engine.tiers.flush(10)
    for page in engine.ledger.droppable():
        engine.ledger.apply(tiny.Drop(page))
    assert counts(look(engine)) == {State.TIER: 160, State.MISSING: 2}
    engine.reset_cache()
    assert engine.tiers.flush(10)
    assert set(counts(look(engine))) == {State.MISSING}


def test_what_a_compression_left_is_followed_until_it_is_dropped() -> None:
    engine = tiny.make_engine()
    cache = CacheParams(compression=METHODS["knorm"], compress_after=100)
    tiny.run(engine, {"x": PROMPT}, GREEDY, cache=cache)
    left = look(engine)
    assert left.stretches == (Stretch(0, 100, State.COMPRESSED), Stretch(100, 162, State.MISSING, Why.COMPRESSED))
    assert left.exact is not None
    assert left.compressed is not None
    assert left.exact.bytes > left.compressed.bytes > 0
    assert set(left.exact.entries.values()) == {100}
    for page in engine.ledger.droppable():
        if page in engine.ledger.index:
            engine.ledger.apply(tiny.Drop(page))
    assert State.COMPRESSED not in counts(look(engine))


def test_long_contexts_are_told_in_short() -> None:
    striped = [Stretch(n, n + 1, State.HOT if n % 2 else State.MISSING) for n in range(1000)]
    told = _coarse(striped)
    assert len(told) <= 96
    assert (told[0].start, told[-1].stop) == (0, 1000)
    assert all(before.stop == after.start for before, after in pairwise(told))
    assert _coarse(striped[:50]) == tuple(striped[:50])
    assert _coarse([]) == ()


def test_the_past_is_bounded() -> None:
    engine = tiny.make_engine()
    once = SamplingParams(temperature=0.0, max_tokens=1)
    for n in range(300):
        tiny.run(engine, {f"r{n}": PROMPT[:4]}, once)
    assert overview(engine, ["r0"]).contexts == ()
    assert look(engine, "r299").prompt == 4


def test_slabs_are_sampled() -> None:
    engine = tiny.make_engine()
    tiny.run(engine, {"x": PROMPT}, GREEDY)
    whole, some = engine.ledger.occupancy(10_000), engine.ledger.occupancy(2)
    assert len(whole.slabs) == whole.num_slabs == engine.ledger.arena.num_slabs
    assert len(some.slabs) == 2
    assert some.slabs[0] == whole.slabs[0]
    (use,) = whole.formats
    assert use.idle_pages * use.page_bytes == engine.ledger.cached_bytes
    filled = sum(slab.filled for slab in whole.slabs if slab is not None)
    assert round(filled * engine.ledger.arena.pages_per_slab(use.format)) == use.idle_pages
