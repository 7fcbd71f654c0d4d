"""Documents of prompts that wait: loaded from tiers meanwhile, given up for anybody else, never waited for in vain."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import tiny
import tiny_decoder
from dict_tier import DictTier
from fused_in_torch import logprobs_of
from kvloom.config import TierFaults
from kvloom.engine.cache_params import CacheParams, Source
from kvloom.engine.params import SamplingParams
from kvloom.engine.request import Sequence, Status
from kvloom.engine.tiers import tiers as tiers_of
from kvloom.memory.tier.base import Fault, Place, Tier, TierFault
from kvloom.memory.tier.faulty import FaultyTier
from kvloom.policy.fusion import fusion_of, parse_fusion
from tier_cases import DAMAGEABLE

SCORED = SamplingParams(temperature=0.0, max_tokens=4, ignore_eos=True, logprobs=4)
PROMPT = tiny.random_prompt(120, 1)
DOCUMENTS = ((10, 60), (60, 100))
STREAM = tiny.random_prompt(20, 8)


@pytest.fixture(autouse=True)
def whatever_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine may take its time, and on an idle one loading is as worthwhile, though a tiny model is faster."""
    monkeypatch.setattr(tiers_of, "_LEAST_PATIENCE_S", 60.0)
    monkeypatch.setattr(tiers_of.Tiers, "choose", lambda self, wanted, gain, cost: list(wanted))


def asked(selector: str = "a3", ratio: object = None, **given: object) -> CacheParams:
    return CacheParams(**{"fusion": fusion_of(selector, ratio), "documents": DOCUMENTS} | given)


def engine_of(tier: Tier, **given: object) -> tiny.Engine:
    """An engine that serves one at a time, and has the documents of ``PROMPT`` in the tier alone."""
    windows = given.pop("windows", (None, None, None))
    engine = tiny.make_engine(**{"model": tiny_decoder.decoder(windows), "tiers": [tier], "max_seqs": 1} | given)
    engine.intake.worth = lambda cache, prompt_tokens: True
    for start, stop in DOCUMENTS:
        add(engine, PROMPT[start:stop])
    assert engine.tiers.flush(10)
    engine.ledger.reset()
    if isinstance(tier, DictTier):
        tier.reads.clear()
    return engine


def add(engine: tiny.Engine, passage: list[int]) -> None:
    tiny.run(engine, {"passage": passage}, SamplingParams(max_tokens=0), cache=CacheParams(kept_as="chunk"))


def long(tokens: int = 60) -> SamplingParams:
    return SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True)


def waiting(engine: tiny.Engine, name: str = "next") -> Sequence:
    (sequence,) = engine.requests[name].sequences
    assert sequence.status is Status.WAITING
    return sequence


def step_until(engine: tiny.Engine, done: object, steps: int = 2000) -> None:
    for _ in range(steps):
        if done():
            return
        engine.sleep(0.005) if not engine.runnable else engine.step()
        engine.check()
    raise AssertionError("it never happens")


def queued(engine: tiny.Engine, stream: SamplingParams | None = None) -> None:
    """One that answers for a while, and a fused one that waits for its place."""
    engine.submit("stream", STREAM, stream or long(400))
    engine.step()
    engine.submit("next", PROMPT, SCORED, cache=asked())
    engine.step()


@pytest.mark.parametrize("windows", [(None, None, None), (24, None, 24)], ids=["dense", "hybrid"])
def test_what_a_prompt_wants_is_loaded_while_it_waits(windows: tuple[int | None, ...]) -> None:
    tier = DictTier()
    engine = engine_of(tier, windows=windows)
    without = DictTier()
    expected = tiny.run(engine_of(without, windows=windows), {"next": PROMPT}, SCORED, cache=asked())["next"]
    queued(engine)
    sequence = waiting(engine)
    step_until(engine, lambda: sequence.documents is not None and sequence.documents.complete)
    assert sequence.status is Status.WAITING
    pages = 7 * len(engine.layout.formats)
    assert len(tier.reads) == pages
    tier.before_read = gone
    engine.abort("stream")
    done = tiny.drain(engine, ["next"])["next"]
    assert len(tier.reads) == pages, "nothing is loaded twice"
    assert logprobs_of(done) == logprobs_of(expected)
    metrics = done.updates[-1].metrics
    assert metrics.fused is not None
    assert metrics.fused.found == 90
    assert metrics.computed_tokens == 10 + 15 + 20 + 3, "of documents only what is repaired"
    assert engine.ledger.held_pages == 0


def gone(place: Place) -> None:
    raise TierFault(Fault.GONE, "it is not there")


def slow(directory: Path, num_bytes: int) -> Tier:
    faults = TierFaults(tier="disk", slow=1.0, slow_seconds=0.02)
    return FaultyTier(DAMAGEABLE["disk"](directory, num_bytes), faults)


@pytest.mark.parametrize("make", [DAMAGEABLE["disk"], DAMAGEABLE["remote"], slow], ids=["disk", "remote", "slow disk"])
def test_from_any_tier(make: Callable[[Path, int], Tier], tmp_path: Path) -> None:
    tier = make(tmp_path, 2**20)
    engine = engine_of(tier)
    expected = tiny.run(engine_of(DictTier()), {"next": PROMPT}, SCORED, cache=asked())["next"]
    queued(engine)
    sequence = waiting(engine)
    step_until(engine, lambda: sequence.documents is not None and sequence.documents.complete)
    loaded = engine.stats().cache.tiers[tier.name].loaded_pages
    assert loaded == 7
    engine.abort("stream")
    done = tiny.drain(engine, ["next"])["next"]
    assert logprobs_of(done) == logprobs_of(expected)
    assert engine.stats().cache.tiers[tier.name].loaded_pages == loaded
    engine.close()


def test_parts_of_an_earlier_context_are_loaded_too() -> None:
    earlier = tiny.random_prompt(160, 3)
    prompt = tiny.random_prompt(10, 4) + earlier[20:100] + tiny.random_prompt(12, 5)
    cache = asked("reuse", documents=((10, 90),), source=Source(tuple(earlier), (20,)))
    at_hand = engine_of(DictTier())
    tiny.run(at_hand, {"earlier": earlier}, SCORED)
    expected = tiny.run(at_hand, {"next": prompt}, SCORED, cache=cache)["next"]
    tier = DictTier()
    engine = engine_of(tier)
    tiny.run(engine, {"earlier": earlier}, SCORED)
    assert engine.tiers.flush(10)
    engine.ledger.reset()
    tier.reads.clear()
    engine.submit("stream", STREAM, long(400))
    engine.step()
    engine.submit("next", prompt, SCORED, cache=cache)
    engine.step()
    sequence = waiting(engine)
    step_until(engine, lambda: sequence.documents is not None and sequence.documents.complete)
    assert len(tier.reads) == 6
    tier.before_read = gone
    engine.abort("stream")
    done = tiny.drain(engine, ["next"])["next"]
    assert logprobs_of(done) == logprobs_of(expected)
    assert done.updates[-1].metrics.fused.found == 80
    assert engine.ledger.held_pages == 0


@pytest.mark.parametrize("come", [False, True])
def test_aborted_while_it_waits_nothing_is_left(come: bool) -> None:
    tier, let_go = DictTier(), threading.Event()
    engine = engine_of(tier)
    tier.before_read = lambda place: void(let_go.wait(0 if come else 30))
    queued(engine)
    sequence = waiting(engine)
    step_until(engine, lambda: all(kv.load is None for kv in sequence.documents.texts) or not come)
    held = engine.ledger.held_pages
    assert held > 7
    engine.abort("next")
    engine.check()
    assert engine.ledger.held_pages <= held - 7
    engine.abort("stream")
    engine.check()
    assert engine.ledger.held_pages == 0
    let_go.set()


def test_it_begins_again_after_it_was_preempted_or_given_up() -> None:
    """Whatever happened ahead, the answer is that of a prompt that never waited."""
    tier = DictTier()
    engine = engine_of(tier)
    expected = tiny.run(engine_of(DictTier()), {"next": PROMPT}, SCORED, cache=asked())["next"]
    queued(engine)
    assert engine.scheduler.queues.give_up_documents()
    assert not engine.scheduler.queues.give_up_documents()
    engine.check()
    assert waiting(engine).documents is not None, "it is not tried again and again"
    engine.abort("stream")
    done = tiny.drain(engine, ["next"])["next"]
    assert logprobs_of(done) == logprobs_of(expected)
    assert done.updates[-1].metrics.fused.found == 90


@pytest.mark.parametrize("fault", [Fault.GONE, Fault.CORRUPT, Fault.FAILED])
@pytest.mark.parametrize("every", [1, 3])
def test_what_a_tier_does_not_deliver_ahead_is_computed_when_it_starts(fault: Fault, every: int) -> None:
    tier = DictTier()
    engine = engine_of(tier)
    expected = tiny.run(engine_of(DictTier()), {"next": PROMPT}, SCORED, cache=asked())["next"]
    reads = iter(range(1000))

    def bad(place: Place) -> None:
        if next(reads) % every == 0:
            raise TierFault(fault, "made up")

    tier.before_read = bad
    queued(engine)
    sequence = waiting(engine)
    step_until(engine, lambda: all(kv.load is None for kv in sequence.documents.texts))
    assert engine.stats().cache.tiers["disk"].faults[fault.value] > 0
    engine.abort("stream")
    assert logprobs_of(tiny.drain(engine, ["next"])["next"]) == logprobs_of(expected)
    assert engine.ledger.held_pages == 0


def test_who_runs_is_never_preempted_for_it_and_takes_its_room() -> None:
    """The stream's answer needs all of the memory in the end."""
    tier = DictTier()
    expected = tiny.run(engine_of(DictTier()), {"next": PROMPT}, SCORED, cache=asked())["next"]
    engine = engine_of(tier, kv_bytes="520KiB")
    most = engine.max_len - len(STREAM)
    alone = tiny.run(tiny.make_engine(model=engine.model), {"stream": STREAM}, long(most))["stream"]
    engine.submit("stream", STREAM, long(most))
    engine.submit("next", PROMPT, SCORED, cache=asked())
    answer = [token for update in engine.step() for delta in update.deltas for token in delta.token_ids]
    held_ahead = False
    while "stream" in engine.requests:
        held_ahead |= waiting(engine).documents is not None and any(
            document.begun for document in waiting(engine).documents.each
        )
        for update in engine.step():
            answer += [token for delta in update.deltas for token in delta.token_ids]
        engine.check()
        assert engine.ledger.arena.used_bytes <= engine.ledger.arena.budget_bytes
    assert held_ahead
    assert not any(document.begun for document in waiting(engine).documents.each)
    assert engine.preempt.preemptions == 0
    assert answer == alone.tokens[0]
    assert logprobs_of(tiny.drain(engine, ["next"])["next"]) == logprobs_of(expected)


def test_nothing_is_loaded_ahead_where_there_is_no_room() -> None:
    tier = DictTier()
    engine = engine_of(tier)
    (fmt,) = engine.layout.formats
    while engine.ledger.fits({fmt: 5}):  # four for the first document, and one for the stream
        assert engine.ledger.allocate(fmt, "somebody") is not None
    queued(engine)
    assert waiting(engine).documents is None
    assert not tier.reads


def test_an_ordinary_prompt_takes_the_room_of_one_behind_it() -> None:
    """Together they do not fit, and it is the first's turn."""
    tier = DictTier()
    engine = engine_of(tier, kv_bytes="520KiB", max_seqs=2)
    big = engine.max_len - 30
    engine.submit("stream", STREAM, long(12))
    engine.step()
    engine.submit("big", tiny.random_prompt(big, 6), long(3))
    engine.submit("next", PROMPT, SCORED, cache=asked())
    order = []
    while engine.has_work:
        for update in engine.step():
            if update.finished:
                order.append(update.request_id)
        engine.check()
    assert order == ["stream", "big", "next"]
    assert engine.preempt.preemptions == 0


def test_nobody_waits_for_what_one_that_waits_is_to_compute() -> None:
    """Half of its second document is nowhere: whoever runs and needs that computes it."""
    tier = DictTier()
    engine = engine_of(tier)
    second_page = tuple(PROMPT[60 + 16 : 60 + 32])
    for place in [place for place, page in tier.pages.items() if page.tokens == second_page]:
        del tier.pages[place]
    engine.submit("stream", STREAM, long(8))
    engine.step()
    engine.submit("next", PROMPT, SCORED, cache=asked())
    engine.submit("other", PROMPT[:10] + PROMPT[60:100] + PROMPT[100:], SCORED, cache=asked(documents=((10, 50),)))
    engine.step()
    sequence = waiting(engine)
    step_until(engine, lambda: all(kv.load is None for kv in sequence.documents.texts))
    first, second = sequence.documents.each
    assert first.begun
    assert not second.begun
    done = tiny.drain(engine, ["stream", "next", "other"])
    assert len(done["next"].tokens[0]) == len(done["other"].tokens[0]) == 4


def test_what_only_one_that_waits_loads_is_waited_for() -> None:
    """A passage that is added meanwhile has pages that are on their way."""
    tier, come = DictTier(), threading.Event()
    engine = engine_of(tier, max_seqs=2)
    tier.before_read = lambda place: void(come.wait(30))
    engine.submit("a", STREAM, long(30))
    engine.submit("b", STREAM[3:], long(8))
    engine.step()
    engine.submit("next", PROMPT, SCORED, cache=asked())
    engine.step()
    assert waiting(engine).documents is not None
    engine.submit("passage", PROMPT[10:60], SamplingParams(max_tokens=0), cache=CacheParams(kept_as="chunk"))
    come.set()
    done = tiny.drain(engine, ["a", "b", "next", "passage"])
    assert done["passage"].updates[-1].metrics.computed_tokens <= 50
    assert engine.ledger.held_pages == 0


def test_who_starts_takes_its_documents_first() -> None:
    """They may be idle in RAM, and what is loaded for others must not displace them."""
    tier = DictTier()
    engine = engine_of(tier)
    engine.submit("first", PROMPT[:60] + PROMPT[100:], SCORED, cache=asked(documents=((10, 60),)))
    engine.submit("next", PROMPT, SCORED, cache=asked())
    engine.step()
    (first,) = engine.requests["first"].sequences
    assert first.status is Status.RUNNING
    assert waiting(engine).documents is None
    engine.step()
    assert first.layerwise is not None
    assert waiting(engine).documents is not None


def test_two_prompts_have_documents_loaded_and_no_more() -> None:
    tier = DictTier()
    engine = engine_of(tier)
    for n in range(4):
        add(engine, tiny.random_prompt(40, 70 + n))
    engine.tiers.flush(10)
    engine.ledger.reset()
    queued(engine)
    for n in range(4):
        prompt = PROMPT[:10] + tiny.random_prompt(40, 70 + n) + PROMPT[100:]
        engine.submit(f"r{n}", prompt, SCORED, cache=asked(documents=((10, 50),)))
    engine.step()
    begun = [each.request.id for each in engine.scheduler.queues.waiting if each.documents is not None]
    assert begun == ["next", "r0"]


def test_what_was_loaded_ahead_hides_no_repair() -> None:
    """As much is computed again as loading takes: nothing, if that is over when the prompt starts."""
    tier = DictTier()
    engine = engine_of(tier)
    queued(engine)
    engine.abort("next")
    cache = asked(fusion=fusion_of("a3", "loading", least=0.1))
    engine.submit("next", PROMPT, SCORED, cache=cache)
    engine.step()
    sequence = waiting(engine)
    step_until(engine, lambda: sequence.documents is not None and sequence.documents.complete)
    engine.abort("stream")
    told = tiny.drain(engine, ["next"])["next"].updates[-1].metrics.fused
    assert told is not None
    assert parse_fusion(told.selector).ratio == pytest.approx(0.1)


def void(_: object) -> None:
    """Nothing."""
