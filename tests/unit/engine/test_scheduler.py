"""Each stage by itself: what it adds to the plan, and what it leaves alone."""

from __future__ import annotations

import dataclasses
import random

import tiny
from kvloom.attend.plan import Contiguous
from kvloom.engine.kv import Results, SequenceKv
from kvloom.engine.params import SamplingParams
from kvloom.engine.request import Sequence
from kvloom.engine.scheduler import admit
from kvloom.engine.scheduler.batch import form_batch
from kvloom.engine.scheduler.chunk import ChunkRunning
from kvloom.engine.scheduler.loads import Loads
from kvloom.engine.scheduler.match import Match, match
from kvloom.engine.scheduler.prefill_budget import PrefillBudget
from kvloom.engine.scheduler.reserve import Reserve
from kvloom.engine.scheduler.state import StepPlan
from kvloom.memory.table import page_indices
from kvloom.segment import Span, SpanSet

GREEDY = SamplingParams(temperature=0.0, max_tokens=4, ignore_eos=True)


def look_up(engine: tiny.Engine, sequence: Sequence) -> Match:
    return match(sequence, engine.ledger.index, engine.results, Loads(engine.tiers, engine.prefill_cost))


def waiting(engine: tiny.Engine, name: str, length: int, seed: int = 1):
    engine.submit(name, tiny.random_prompt(length, seed), GREEDY)
    return engine.requests[name].sequences[0]


class TestChunk:
    def test_single_rows_go_before_long_ones_and_the_budget_holds(self) -> None:
        engine = tiny.make_engine(step_tokens=10)
        long, short = waiting(engine, "long", 50), waiting(engine, "short", 50, seed=2)
        for sequence in (long, short):
            engine.scheduler.queues.remove(sequence)
            engine.scheduler.queues.start(sequence)
        short.kv.missing = SpanSet((Span(49, 50),))
        plan = StepPlan(10)
        ChunkRunning(PrefillBudget(2.0)).run(engine.scheduler.queues, plan)
        assert [(c.sequence, len(c.spans)) for c in plan.chunks.values()] == [(short, 1), (long, 9)]
        assert plan.rows_left == 0
        assert [c.closes for c in plan.chunks.values()] == [True, False]

    def test_a_chunk_goes_over_what_is_there(self) -> None:
        missing = SpanSet.of([Span(0, 3), Span(10, 14), Span(40, 50)])
        assert missing.first(9).spans == (Span(0, 3), Span(10, 14), Span(40, 42))


class TestReserve:
    def test_takes_all_or_nothing(self) -> None:
        engine = tiny.make_engine(kv_bytes=160_000)
        first, second = waiting(engine, "a", engine.max_len - 8), waiting(engine, "b", 60, seed=2)
        reserve = Reserve(engine.ledger, engine.layout, Results(engine.ledger))
        assert reserve.try_start(first, look_up(engine, first), 0)
        held = engine.ledger.held_pages
        assert not reserve.try_start(second, look_up(engine, second), 0)
        assert engine.ledger.held_pages == held
        engine.check()

    def test_headroom_is_left(self) -> None:
        engine = tiny.make_engine(kv_bytes=160_000)
        sequence = waiting(engine, "a", 32)
        reserve, found = Reserve(engine.ledger, engine.layout, Results(engine.ledger)), look_up(engine, sequence)
        assert not reserve.try_start(sequence, found, 10_000)
        assert reserve.try_start(sequence, found, 0)
        assert sequence.kv.tables[0].count() == 2

    def test_a_copy_keeps_its_source_while_room_is_made_for_another(self) -> None:
        """Two pages to be copied, and no page free: one copy must not evict the source of the other."""
        engine = tiny.make_engine(kv_bytes="256KiB")
        prompt, ledger = tiny.random_prompt(70, 1), engine.ledger
        first = tiny.run(engine, {"a": prompt}, GREEDY)["a"].tokens[0]
        tiny.run(engine, {"sibling": prompt[:24] + tiny.random_prompt(12, 2)}, GREEDY)
        (second_page,) = [e for e in ledger.index.entries.values() if e.tokens == tuple(prompt[16:32])]
        ledger.apply(tiny.Drop(second_page.pages[0]))
        fmt, fillers = engine.layout.formats[0], 0
        while free := ledger.arena.free_pages(fmt) + ledger.arena.claimable_slabs(fmt):
            length = 17 if free > 1 else 9
            tiny.run(engine, {f"filler{fillers}": tiny.random_prompt(length, 100 + fillers)}, GREEDY)
            fillers += 1
        again = tiny.run(engine, {"b": prompt}, GREEDY)["b"]
        assert again.updates[-1].metrics.cached_tokens > 32
        assert again.tokens[0] == first == tiny.oracle((None, None), prompt, 4)


class TestAdmit:
    def test_order_of_arrival_and_the_limit_on_sequences(self) -> None:
        engine = tiny.make_engine(max_seqs=2)
        names = [waiting(engine, f"r{n}", 20, seed=n).owner for n in range(4)]
        engine.scheduler.schedule()
        assert [s.owner for s in engine.scheduler.queues.running] == names[:2]
        assert [s.owner for s in engine.scheduler.queues.waiting] == names[2:]

    def test_a_request_that_does_not_fit_blocks_later_ones(self) -> None:
        engine = tiny.make_engine(kv_bytes=160_000)
        waiting(engine, "running", 64)
        engine.step()
        waiting(engine, "large", engine.max_len - 4, seed=2)
        waiting(engine, "small", 4, seed=3)
        engine.step()
        assert [s.owner for s in engine.scheduler.queues.waiting] == ["large/0", "small/0"]

    def test_whatever_is_accepted_starts(self) -> None:
        """Page formats of unlike size: room is reckoned at what each slab really costs."""
        windows = (None, *[256] * 5)
        for length in (200, 300, 400):
            budget = tiny.make_engine(windows, kv_bytes="64MiB").layout.bytes_for(length + 9)
            engine = tiny.make_engine(windows, kv_bytes=budget)
            done = tiny.run(engine, {"a": tiny.random_prompt(engine.max_len - 9, 1)}, GREEDY)["a"]
            assert done.updates[-1].error is None
            assert len(done.tokens[0]) == 4

    def test_a_head_without_room_is_not_looked_up_again_until_something_changes(self, monkeypatch) -> None:
        engine = tiny.make_engine(kv_bytes=160_000)
        waiting(engine, "running", 64)
        engine.step()
        waiting(engine, "large", engine.max_len - 4, seed=2)
        looked = []
        monkeypatch.setattr(admit, "match", lambda *a: looked.append(a) or match(*a))
        engine.scheduler.schedule()
        engine.scheduler.schedule()
        assert len(looked) == 1


class TestGrow:
    def test_who_is_alone_and_out_of_room_starts_over_once_and_then_ends_with_an_error(self, monkeypatch) -> None:
        engine = tiny.make_engine()
        waiting(engine, "a", 40)
        engine.step()
        monkeypatch.setattr(SequenceKv, "reserve", lambda *a: False)
        updates = []
        while engine.has_work:
            updates += engine.step()
            engine.check()
        assert "exhausted" in str(updates[-1].error)
        assert updates[-1].finished
        assert engine.preempt.preemptions <= 2
        monkeypatch.undo()
        assert tiny.run(engine, {"b": tiny.random_prompt(40, 2)}, GREEDY)["b"].reasons[0] == "length"

    def test_a_scattered_survivor_is_not_killed(self) -> None:
        """Finished neighbours leave their slabs half empty; the last one must still reach its full length."""
        for seed in range(12):
            engine, chance = tiny.make_engine((24, None), kv_bytes=240_000, step_tokens=16), random.Random(seed)
            for n in range(5):
                prompt = tiny.random_prompt(chance.randrange(10, 40), n)
                params = dataclasses.replace(GREEDY, max_tokens=chance.randrange(1, 20) if n else 400)
                engine.submit(f"r{n}", prompt, params)
            done = tiny.drain(engine, [f"r{n}" for n in range(5)])
            assert [d.updates[-1].error for d in done.values()] == [None] * 5
            assert len(done["r0"].tokens[0]) == 400 or len(done["r0"].tokens[0]) > engine.max_len - 40

    def test_the_latest_arrival_is_preempted_and_comes_back_in_order(self) -> None:
        engine = tiny.make_engine(kv_bytes=260_000)
        sequences = [waiting(engine, f"r{n}", 40, seed=n) for n in range(3)]
        while not engine.preempt.preemptions and engine.has_work:
            engine.step()
            engine.check()
            for s in sequences:
                s.request.max_tokens = 1000
        assert engine.scheduler.queues.waiting[0] is sequences[2]
        assert sequences[2].request.metrics.preemptions == 1
        assert sequences[2].kv.missing == SpanSet.full(len(sequences[2].tokens))


def test_form_batch_flattens_in_order() -> None:
    engine = tiny.make_engine(step_tokens=24)
    a, b = waiting(engine, "a", 20), waiting(engine, "b", 20, seed=2)
    plan = engine.scheduler.schedule()
    batch = form_batch(list(plan.chunks.values()), engine.planner)
    assert batch.tokens_T.tolist() == a.tokens + b.tokens[:4]
    assert batch.wanted_R.tolist() == [19]
    assert batch.wanted_starts == (0, 1, 1)
    assert batch.plan.positions_T.tolist() == [*range(20), *range(4)]
    (group,) = batch.plan.groups
    assert isinstance(group.parts[0].entries, Contiguous)
    assert group.parts[0].entries.starts_P.tolist() == [0, 16, 0]
    assert group.writes[0].row_slots_T.tolist() == [p % 16 for p in [*range(20), *range(4)]]


def test_page_indices_name_each_page_once() -> None:
    spans = SpanSet.of([Span(0, 5), Span(7, 40), Span(47, 49), Span(100, 101)])
    assert page_indices(spans) == [0, 1, 2, 3, 6]
