"""Positions on their way from somewhere else: what precedes them is computed meanwhile, the rest waits."""

from __future__ import annotations

import pytest

import tiny
from kvloom.engine.cache_params import CacheParams
from kvloom.engine.kv import SequenceKv
from kvloom.engine.params import SamplingParams
from kvloom.errors import InternalError
from kvloom.memory.arena import GRAIN_BYTES
from kvloom.segment import Pending, Span, SpanSet

GREEDY = SamplingParams(temperature=0.0, max_tokens=6, ignore_eos=True)
PROMPT = tiny.random_prompt(100, 1)
MIDDLE = SpanSet((Span(32, 64),))
MODELS = {"dense": (None, None), "hybrid": (40, None, 40)}
"""After a step of 64 rows, such windows still have all of the middle."""


def waiting(engine: tiny.Engine) -> SequenceKv:
    """A sequence whose middle is pending, with a step or two behind it."""
    engine.submit("a", PROMPT, GREEDY, cache=CacheParams(read=False))
    engine.step()
    kv = engine.requests["a"].sequences[0].kv
    assert kv.reserve(MIDDLE)
    kv.expect(MIDDLE)
    return kv


def load(engine: tiny.Engine, kv: SequenceKv, spans: SpanSet, source: SequenceKv) -> None:
    """As a tier would: bytes into the pages that were reserved."""
    memory, other = engine.ledger.arena.memory, source.ledger.arena.memory
    for table, theirs in zip(kv.tables, source.tables, strict=True):
        for span in spans:
            for index in range(span.start // 16, span.stop // 16):
                to, out, size = table.ids[index] * GRAIN_BYTES, theirs.ids[index] * GRAIN_BYTES, table.format.page_bytes
                memory[to : to + size] = other[out : out + size]


def computed_elsewhere(windows: tuple[int | None, ...]) -> SequenceKv:
    engine = tiny.make_engine(windows, step_tokens=64)
    engine.submit("a", PROMPT, GREEDY)
    engine.step()
    return engine.requests["a"].sequences[0].kv


@pytest.mark.parametrize("windows", MODELS.values(), ids=MODELS)
def test_what_precedes_is_computed_and_the_rest_waits(windows: tuple[int | None, ...]) -> None:
    engine = tiny.make_engine(windows, step_tokens=16)
    kv, source = waiting(engine), computed_elsewhere(windows)
    assert kv.ready(100) == SpanSet((Span(16, 32),))
    while engine.runnable:
        assert engine.step() == []
        engine.check()
    assert engine.has_work
    assert kv.missing == SpanSet((Span(64, 100),))
    assert Pending() in [segment.state for segment in kv.context()]
    engine.wake()
    engine.step()
    assert kv.missing == SpanSet((Span(64, 100),)), "nothing has come"
    for part in (Span(32, 48), Span(48, 64)):
        load(engine, kv, SpanSet((part,)), source)
        kv.written(SpanSet((part,)))
        kv.publish(len(kv.tokens))
        engine.wake()
        engine.step()
        engine.check()
        assert (kv.missing.spans[0].start > 64) == (part.stop == 64)
    done = tiny.drain(engine, ["a"])["a"]
    assert done.tokens[0] == tiny.oracle(windows, PROMPT, 6)
    assert done.updates[-1].metrics.computed_tokens == 100 - 32 + 5
    warm = tiny.run(engine, {"b": PROMPT}, GREEDY)["b"]
    assert warm.updates[-1].metrics.cached_tokens == 99
    assert warm.tokens == done.tokens


def test_others_go_on_meanwhile() -> None:
    engine = tiny.make_engine(step_tokens=16)
    waiting(engine)
    engine.submit("b", PROMPT[:30], GREEDY)
    tokens: list[int] = []
    while engine.runnable:
        tokens += [token for update in engine.step() for delta in update.deltas for token in delta.token_ids]
        engine.check()
    assert tokens == tiny.oracle((None, None), PROMPT[:30], 6)
    assert list(engine.requests) == ["a"]


def test_what_does_not_come_is_computed() -> None:
    engine = tiny.make_engine(step_tokens=16)
    kv = waiting(engine)
    while engine.runnable:
        engine.step()
    kv.give_up(MIDDLE)
    engine.wake()
    done = tiny.drain(engine, ["a"])["a"]
    assert done.tokens[0] == tiny.oracle((None, None), PROMPT, 6)
    assert done.updates[-1].metrics.computed_tokens == 100 + 5


def test_who_waits_can_be_aborted() -> None:
    engine = tiny.make_engine(step_tokens=16)
    waiting(engine)
    while engine.runnable:
        engine.step()
    assert engine.abort("a") is not None
    engine.check()
    assert engine.stats().cache.held_pages == 0


def test_the_last_token_is_never_waited_for() -> None:
    engine = tiny.make_engine(step_tokens=16)
    kv = waiting(engine)
    for spans in (SpanSet((Span(90, 100),)), SpanSet((Span(0, 3),))):
        with pytest.raises(InternalError, match="cannot be waited for"):
            kv.expect(spans)
