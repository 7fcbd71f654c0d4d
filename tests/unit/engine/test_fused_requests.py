"""What a request with documents is refused for, when it is computed as ever, and what it tells."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np
import pytest

import tiny
import tiny_decoder
from dict_tier import DictTier
from kvloom.engine.cache_params import CacheParams, Guard
from kvloom.engine.kv import SequenceKv
from kvloom.engine.params import SamplingParams
from kvloom.engine.tiers import tiers as tiers_of
from kvloom.errors import KvloomError, ParamsError, RequestError
from kvloom.memory.tier.base import Fault, Place, TierFault
from kvloom.policy.compression import compression_of
from kvloom.policy.cost import PrefillCost
from kvloom.policy.cost_estimate import CostEstimate
from kvloom.policy.fusion import Fusion, Need, View, faster, fusion_of, parse_fusion
from kvloom.policy.tier_cost import TierCost
from kvloom.policy.tier_rate import TierRate
from kvloom.segment import Span

GREEDY = SamplingParams(temperature=0.0, max_tokens=4, ignore_eos=True)
PROMPT = tiny.random_prompt(120, 1)
DOCUMENTS = ((10, 60), (60, 100))


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine may take its time."""
    monkeypatch.setattr(tiers_of, "_LEAST_PATIENCE_S", 60.0)


def engine_of(always: bool = True, **given: object) -> tiny.Engine:
    windows = given.pop("windows", (None, None, None))
    engine = tiny.make_engine(model=tiny_decoder.decoder(windows), **given)
    if always:
        engine.intake.worth = lambda cache, prompt_tokens: True
    return engine


def asked(name: str = "a3", **given: object) -> CacheParams:
    return CacheParams(**{"fusion": fusion_of(name), "documents": DOCUMENTS} | given)


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"fusion": None}, "documents"),
        ({"documents": ()}, "documents"),
        ({"documents": ((5, 5),)}, "documents"),
        ({"documents": ((5, 9), (8, 12))}, "documents"),
        ({"documents": [(5, 9)]}, "documents"),
        ({"documents": ((5, 9, 11),)}, "documents"),
        ({"documents": ((-1, 9),)}, "documents"),
        ({"fusion": "a3"}, "fusion"),
        ({"compression": compression_of("knorm", budget=100_000)}, "compression"),
        ({"compression": compression_of("snapkv", 0.5)}, "compression"),
        ({"compression": compression_of("knorm", 0.5), "compress_after": 5}, "compression"),
        ({"compression": compression_of("keydiff", 0.5), "compress_when": "pressure"}, "compression"),
        ({"compression": compression_of("knorm", 0.5), "guard": Guard()}, "guard"),
        ({"compression": compression_of("knorm", 0.5, compactor="d2o")}, "compression"),
        (
            {"compression": compression_of("knorm", 0.5, compactor="keepkv"), "fusion": fusion_of("reuse")},
            "compression",
        ),
        ({"compression": compression_of("knorm", 0.5), "fusion": fusion_of("cacheblend")}, "compression"),
    ],
)
def test_parameters_that_make_no_sense(given: dict[str, object], param: str) -> None:
    with pytest.raises(ParamsError) as caught:
        asked(**given)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("given", "cache", "params", "says"),
    [
        ({}, asked(documents=((10, 120),)), GREEDY, "leave a question"),
        ({}, asked(documents=((10, 500),)), GREEDY, "leave a question"),
        ({}, asked(fusion=fusion_of("a3", check_layer=2)), GREEDY, "must leave a layer of 3"),
        (
            {},
            asked(fusion=parse_fusion("cacheblend:filters=1")),
            GREEDY,
            "1 filters after layer 1 must leave",
        ),
        ({}, asked(), SamplingParams(prompt_logprobs=1), "prompt_logprobs"),
        ({"kv_bytes": "400KiB"}, asked(), GREEDY, "fused, this may need"),
    ],
)
def test_what_can_never_be_fused(given: dict, cache: CacheParams, params: SamplingParams, says: str) -> None:
    engine = engine_of(**given)
    with pytest.raises(RequestError, match=says):
        engine.submit("fused", PROMPT, params, cache=cache)
    assert not engine.has_work
    engine.check()


@dataclass(frozen=True)
class Broken:
    """Raises, or gives scores that are none."""

    raises: bool
    needs: frozenset[Need] = frozenset()

    def scores(self, view: View) -> np.ndarray:
        if self.raises:
            raise RuntimeError("it broke")
        return np.full(3, np.nan, np.float32)


@pytest.mark.parametrize("raises", [True, False])
@pytest.mark.parametrize("needs", [frozenset(), frozenset({Need.CHECKED_QUERIES})])
def test_a_selector_that_fails_ends_its_own_request(raises: bool, needs: frozenset[Need]) -> None:
    engine = engine_of()
    expected = tiny.run(engine_of(), {"other": PROMPT[:50]}, GREEDY)["other"]
    broken = Fusion(name="broken", scorers=(Broken(raises, needs),))
    engine.submit("broken", PROMPT, GREEDY, cache=asked(fusion=broken))
    engine.submit("other", PROMPT[:50], GREEDY)
    done = tiny.drain(engine, ["broken", "other"])
    assert isinstance(done["broken"].updates[-1].error, KvloomError)
    assert done["other"].tokens == expected.tokens
    assert engine.ledger.held_pages == 0


def test_where_it_is_not_faster_the_prompt_is_computed_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CostEstimate, "proportions", PrefillCost(0.0, 1e-3, 1e-6))  # whatever the machine does
    engine = engine_of(always=False)
    exact = tiny.run(engine_of(), {"exact": PROMPT}, GREEDY)["exact"]
    done = tiny.run(engine, {"fused": PROMPT}, GREEDY, cache=asked(fusion=fusion_of("a3", 1.0)))["fused"]
    assert done.tokens == exact.tokens
    assert done.updates[-1].metrics.fused is None
    again = tiny.run(engine, {"fused": PROMPT}, GREEDY, cache=asked(fusion=fusion_of("a3", 0.05)))["fused"]
    assert again.updates[-1].metrics.fused is not None


def test_what_is_faster_follows_from_lengths() -> None:
    cost, documents = PrefillCost(2e-3, 5e-4, 4e-7), [Span(20, 1000), Span(1000, 2000)]
    found = [faster(fusion_of("a3", ratio), documents, 2030, 30, 512, cost) for ratio in (0.0, 0.15, 0.5, 1.0)]
    assert found == [True, True, True, False]
    assert faster(fusion_of("epic"), documents, 2030, 30, 512, cost)
    assert not faster(fusion_of("epic"), [Span(20, 22)], 60, 30, 512, cost)
    assert not faster(fusion_of("prophetkv"), [Span(20, 60)], 800, 30, 512, cost)


def test_it_tells_what_came_of_the_documents() -> None:
    engine = engine_of()
    done = tiny.run(engine, {"fused": PROMPT}, GREEDY, cache=asked())["fused"]
    metrics = done.updates[-1].metrics
    assert metrics.fused is not None
    assert metrics.fused.selector == "a3:ratio=0.15,check_layer=1"
    assert (metrics.fused.documents, metrics.fused.found, metrics.fused.repaired) == (90, 0, 15)
    assert metrics.computed_tokens == 10 + 90 + 15 + 20 + 3
    assert {miss.why.value for miss in metrics.misses} == {"new", "fused"}
    again = tiny.run(engine, {"fused": PROMPT}, GREEDY, cache=asked())["fused"].updates[-1].metrics
    assert again.fused is not None
    assert (again.cached_tokens, again.fused.found, again.computed_tokens) == (10, 90, 15 + 20 + 3)


def in_tiers_alone(tier: DictTier) -> tuple[tiny.Engine, list[int]]:
    """An engine that has fused the prompt, whose documents have left RAM since; and the answer."""
    engine = engine_of(tiers=[tier])
    answer = tiny.run(engine, {"fused": PROMPT}, GREEDY, cache=asked())["fused"].tokens[0]
    assert engine.tiers.flush(10)
    engine.ledger.reset()
    return engine, answer


def test_documents_come_from_tiers() -> None:
    tier = DictTier()
    engine, answer = in_tiers_alone(tier)
    done = tiny.run(engine, {"fused": PROMPT}, GREEDY, cache=asked())["fused"]
    metrics = done.updates[-1].metrics
    assert done.tokens[0] == answer
    assert len(tier.reads) == 7, "the unfinished last pages too"
    assert metrics.fused is not None
    assert metrics.fused.found == 90
    assert metrics.computed_tokens == 10 + 15 + 20 + 3
    assert engine.ledger.held_pages == 0


@pytest.mark.parametrize(("bytes_per_s", "ratio"), [(1e12, 0.1), (4e5, 0.2392), (1e5, 0.5467), (1e2, 0.1)])
def test_the_slower_a_tier_the_more_is_computed_again(bytes_per_s: float, ratio: float) -> None:
    """Until it is so slow that documents are computed rather than loaded."""
    tier = DictTier()
    engine, _ = in_tiers_alone(tier)
    engine.prefill_cost.cost = PrefillCost(0.0, 1e-2, 0.0)
    level = engine.tiers.levels[0]
    level.rate = TierRate(TierCost(bytes_per_s=bytes_per_s, latency_s=0.0))
    cache = asked(fusion=fusion_of("a3", "loading", least=0.1))
    told = tiny.run(engine, {"fused": PROMPT}, GREEDY, cache=cache)["fused"].updates[-1].metrics.fused
    assert told is not None
    assert parse_fusion(told.selector).ratio == pytest.approx(ratio, abs=1e-3)
    assert told.repaired == int(100 * parse_fusion(told.selector).ratio)


@pytest.mark.parametrize("after", [0, 2, 4])
def test_what_a_tier_does_not_deliver_is_computed(after: int) -> None:
    tier = DictTier()
    engine, answer = in_tiers_alone(tier)

    def gone(place: Place) -> None:
        if len(tier.reads) >= after:
            raise TierFault(Fault.GONE, "it is not there")

    tier.before_read = gone
    done = tiny.run(engine, {"fused": PROMPT}, GREEDY, cache=asked())["fused"]
    assert done.tokens[0] == answer
    assert engine.ledger.held_pages == 0


def test_aborted_while_it_loads_nothing_is_left() -> None:
    tier, let_go = DictTier(), threading.Event()
    engine, _ = in_tiers_alone(tier)
    tier.before_read = lambda place: void(let_go.wait(10))
    engine.submit("fused", PROMPT, GREEDY, cache=asked())
    for _ in range(4):
        engine.step()
        engine.check()
    engine.abort("fused")
    engine.check()
    assert engine.ledger.held_pages == 0
    let_go.set()


def test_documents_are_loaded_while_the_prefix_is_computed() -> None:
    tier, come = DictTier(), threading.Event()
    engine, _ = in_tiers_alone(tier)
    tier.before_read = lambda place: void(come.wait(60))
    long = tiny.random_prompt(150, 9) + PROMPT[10:]
    engine.submit("fused", long, GREEDY, cache=asked(documents=((150, 200), (200, 240))))
    engine.step()  # it is admitted, and so much of its prefix computed
    engine.step()
    (sequence,) = engine.requests["fused"].sequences
    assert sequence.layerwise is not None
    assert all(text.load is not None for text in sequence.layerwise.texts)
    while not sequence.kv.prefix_done:
        engine.step()
        engine.check()
    come.set()
    done = tiny.drain(engine, ["fused"])["fused"].updates[-1].metrics
    assert done.fused is not None
    assert done.fused.found == 90
    assert done.computed_tokens == 150 + 36 + 20 + 3, "of documents only what is repaired"


def test_loading_for_the_next_overlaps_computing_for_this_one() -> None:
    tier, come = DictTier(), threading.Event()
    engine, answer = in_tiers_alone(tier)
    others = tiny.random_prompt(120, 2)
    ready = tiny.run(engine, {"ready": others}, GREEDY, cache=asked())["ready"]
    tier.before_read = lambda place: void(come.wait(60))
    engine.submit("next", PROMPT, GREEDY, cache=asked())
    engine.submit("this", others, GREEDY, cache=asked())
    told: list[int] = []
    while engine.has_work and not told:
        for update in engine.step():
            if update.finished:
                assert update.request_id == "this"
                told.append(update.metrics.computed_tokens)
        engine.check()
    assert told == [15 + 20 + 3]
    come.set()
    assert tiny.drain(engine, ["next"])["next"].tokens[0] == answer
    again = tiny.run(engine, {"this": others}, GREEDY, cache=asked())["this"]
    assert again.tokens == ready.tokens


def test_what_is_there_of_all_documents_stays_while_room_is_made_for_the_rest() -> None:
    """Memory is full, and what would be evicted next but for three pages is a document of this very prompt."""
    tier = DictTier()
    _, answer = in_tiers_alone(tier)
    engine = full_with(tier, fillers_that_fit(tier))
    assert not engine.ledger.evicted_pages
    before = len(tier.reads)
    done = tiny.run(engine, {"fused": PROMPT}, GREEDY, cache=asked())["fused"]
    assert engine.ledger.evicted_pages > 3
    assert done.tokens[0] == answer
    assert len(tier.reads) - before == 4, "the first document alone"


def test_one_that_finds_no_room_when_its_documents_are_there_asks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = tiny.run(engine_of(), {"fused": PROMPT}, GREEDY, cache=asked())["fused"].tokens
    engine, take, refused = engine_of(), SequenceKv.copy_prefix, list[str]()

    def once(kv: SequenceKv) -> bool:
        refused.append(kv.owner)
        return len(refused) > 1 and take(kv)

    monkeypatch.setattr(SequenceKv, "copy_prefix", once)
    engine.submit("fused", PROMPT, GREEDY, cache=asked())
    engine.submit("other", tiny.random_prompt(30, 5), SamplingParams(temperature=0.0, max_tokens=60, ignore_eos=True))
    answers: dict[str, list[int]] = {"other": [], "fused": []}
    for _ in range(200):
        for update in engine.step():
            answers[update.request_id] += [token for delta in update.deltas for token in delta.token_ids]
    assert not engine.has_work, "it waits for room that nobody is going to make"
    assert len(refused) > 1
    assert answers["fused"] == expected[0]
    assert len(answers["other"]) == 60


def full_with(tier: DictTier, fillers: int) -> tiny.Engine:
    """Three pages of something, then the second document, then so many pages of other things."""
    engine = engine_of(tiers=[tier], kv_bytes="600KiB")
    start, stop = DOCUMENTS[1]
    add(engine, tiny.random_prompt(48, 99), PROMPT[start:stop], *(tiny.random_prompt(16, n) for n in range(fillers)))
    return engine


def add(engine: tiny.Engine, *passages: list[int]) -> None:
    for passage in passages:
        tiny.run(engine, {"passage": passage}, SamplingParams(max_tokens=0), cache=CacheParams(kept_as="chunk"))


def fillers_that_fit(tier: DictTier) -> int:
    engine, count = full_with(tier, 0), 0
    while not engine.ledger.evicted_pages:
        add(engine, tiny.random_prompt(16, count))
        count += 1
    return count - 1


@pytest.mark.parametrize("fault", [Fault.GONE, Fault.SHORT, Fault.CORRUPT, Fault.DIFFERS, Fault.FAILED])
@pytest.mark.parametrize("every", [1, 3])
def test_faults_of_a_tier_are_counted_and_change_no_answer(fault: Fault, every: int) -> None:
    """Of fused requests, nor of exact ones beside them."""
    tier = DictTier()
    engine, answer = in_tiers_alone(tier)
    exact = tiny.run(engine_of(), {"exact": PROMPT}, GREEDY)["exact"].tokens
    reads = iter(range(1000))

    def bad(place: Place) -> None:
        if next(reads) % every == 0:
            raise TierFault(fault, "made up")

    tier.before_read = bad
    engine.submit("fused", PROMPT, GREEDY, cache=asked())
    engine.submit("moved", PROMPT[:10] + PROMPT[60:100] + PROMPT[10:60] + PROMPT[100:], GREEDY, cache=moved())
    engine.submit("exact", PROMPT, GREEDY)
    done = tiny.drain(engine, ["fused", "moved", "exact"])
    assert done["fused"].tokens[0] == answer
    assert done["exact"].tokens == exact
    assert engine.stats().cache.tiers["disk"].faults[fault.value] > 0
    assert engine.ledger.held_pages == 0
    tier.before_read = void
    elsewhere = tiny.run(engine_of(), {"moved": done["moved"].updates[-1].prompt_token_ids}, GREEDY, cache=moved())
    assert done["moved"].tokens == elsewhere["moved"].tokens


def moved() -> CacheParams:
    """The documents in the other order."""
    return asked(documents=((10, 50), (50, 100)))


def test_a_document_that_is_loaded_twice_is_waited_for_once() -> None:
    tier = DictTier()
    engine, _ = in_tiers_alone(tier)
    twice = PROMPT[:60] + PROMPT[10:60] + PROMPT[100:]
    cache = asked(documents=((10, 60), (60, 110)))
    expected = tiny.run(engine_of(), {"twice": twice}, GREEDY, cache=cache)["twice"]
    before = len(tier.reads)
    done = tiny.run(engine, {"twice": twice}, GREEDY, cache=cache)["twice"]
    assert done.tokens == expected.tokens
    assert len(tier.reads) - before == 4


def test_many_that_do_not_fit_together_take_turns() -> None:
    """Each starts when there is room for its documents, and nothing is preempted for want of it."""
    engine = engine_of(kv_bytes="1MiB")
    prompts = {f"r{n}": tiny.random_prompt(120, 20 + n) for n in range(6)}
    expected = {name: tiny.run(engine_of(), {name: it}, GREEDY, cache=asked())[name] for name, it in prompts.items()}
    done = tiny.run(engine, prompts, GREEDY, cache=asked())
    assert {name: it.tokens for name, it in done.items()} == {name: it.tokens for name, it in expected.items()}
    assert engine.preempt.preemptions == 0


def void(_: object) -> None:
    """Nothing."""
