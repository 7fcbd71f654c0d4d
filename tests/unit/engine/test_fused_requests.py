"""What a request with documents is refused for, when it is computed as ever, and what it tells."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np
import pytest

import tiny
import tiny_decoder
from dict_tier import DictTier
from kvloom.engine.cache_params import CacheParams
from kvloom.engine.params import SamplingParams
from kvloom.errors import KvloomError, ParamsError, RequestError
from kvloom.memory.tier.base import Fault, Place, TierFault
from kvloom.policy.compression import compression_of
from kvloom.policy.cost import PrefillCost
from kvloom.policy.fusion import Fusion, Need, View, faster, fusion_of, parse_fusion
from kvloom.policy.tier_cost import TierCost
from kvloom.policy.tier_rate import TierRate
from kvloom.segment import Span

GREEDY = SamplingParams(temperature=0.0, max_tokens=4, ignore_eos=True)
PROMPT = tiny.random_prompt(120, 1)
DOCUMENTS = ((10, 60), (60, 100))


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
        ({"compression": compression_of("knorm", 0.5)}, "fusion"),
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
        ({}, asked(), SamplingParams(prompt_logprobs=1), "prompt_logprobs"),
        ({"windows": (None, 24, None)}, asked(), GREEDY, "this model has windows"),
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


def test_where_it_is_not_faster_the_prompt_is_computed_as_ever() -> None:
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
    assert len(tier.reads) == 5
    assert metrics.fused is not None
    assert metrics.fused.found == 80
    assert metrics.computed_tokens == 10 + 10 + 15 + 20 + 3
    assert engine.ledger.held_pages == 0


@pytest.mark.parametrize(("bytes_per_s", "ratio"), [(1e12, 0.1), (4e5, 0.1708), (1e5, 0.41), (1e2, 0.1)])
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


def void(_: object) -> None:
    """Nothing."""
