"""Copies in fewer bits: only for who takes them, counted apart, and nobody finds anything that depends on them."""

from __future__ import annotations

import numpy as np
import pytest

import tiny
from dict_tier import DictTier
from kvloom.config import TierConfig
from kvloom.engine.cache_params import CacheParams
from kvloom.engine.params import SamplingParams
from kvloom.engine.tiers import tiers as tiers_of
from kvloom.engine.tiers.open import open_tiers
from kvloom.engine.tiers.write_behind import lossy_place
from kvloom.errors import ConfigError, ParamsError
from kvloom.memory.cells import recoded
from kvloom.memory.format import PageFormat
from kvloom.memory.keys import lossy_key, page_key
from kvloom.memory.tier.base import Fault, Place, StoredPage, TierFault
from kvloom.policy.compression import compression_of
from kvloom.segment import PageKey, Reused, Span, SpanSet

GREEDY = SamplingParams(temperature=0.0, max_tokens=6, ignore_eos=True, logprobs=5)
PROMPT = tiny.random_prompt(100, 1)
LOSSY = CacheParams(lossy=True)
MODELS = {"dense": (None, None), "hybrid": (40, None, 40), "windows": (24, 24)}


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiers_of, "_LEAST_PATIENCE_S", 60.0)


def filled(
    windows: tuple[int | None, ...] = (None, None), *others: DictTier
) -> tuple[tiny.Engine, list[int], DictTier]:
    """An engine that has answered the prompt, and of whose KV nothing but copies in int8 is left."""
    tier = DictTier("warm_int8")
    engine = tiny.make_engine(windows, step_tokens=16, tiers=[*others, tier])
    answer = tiny.run(engine, {"a": PROMPT}, GREEDY)["a"].tokens[0]
    assert engine.tiers.flush(10)
    engine.ledger.reset()
    return engine, answer, tier


def again(engine: tiny.Engine, name: str, cache: CacheParams | None = None) -> tiny.Done:
    return tiny.run(engine, {name: PROMPT}, GREEDY, cache=cache)[name]


def in_int8() -> tiny.Done:
    """The oracle: whole pages of the prompt are computed, then recoded in place, then the rest is computed."""
    engine = tiny.make_engine(step_tokens=16)
    engine.submit("x", list(PROMPT), GREEDY)
    sequence = engine.requests["x"].sequences[0]
    while len(sequence.kv.missing) > 100 - 96:
        engine.step()
    for index in range(6):
        assert sequence.kv.recode(0, index, "int8")
    return tiny.drain(engine, ["x"])["x"]


def _logprobs(done: tiny.Done) -> list[dict[int, float]]:
    deltas = [delta for update in done.updates for delta in update.deltas]
    return [{token: each.logprob for token, each in row.items()} for delta in deltas for row in delta.logprobs or ()]


def test_who_takes_lossy_kv_gets_what_recoded_pages_say() -> None:
    engine, _, tier = filled()
    done, expected = again(engine, "b", LOSSY), in_int8()
    assert done.tokens == expected.tokens
    assert _logprobs(done) == _logprobs(expected)
    metrics = done.updates[-1].metrics
    assert (metrics.cached_tokens, metrics.lossy_tokens, metrics.computed_tokens) == (0, 96, 4 + 5)
    assert metrics.reused == [Reused(Span(0, 96), "warm_int8", lossy=True)]
    assert [miss.span for miss in metrics.misses] == [Span(96, 100)]
    stats = engine.stats().cache
    assert (stats.hit_tokens, stats.lossy_tokens, stats.miss_tokens) == (0, 96, 100 + 4)
    assert stats.tiers["warm_int8"].loaded_pages == len(tier.reads) == 6


@pytest.mark.parametrize("windows", MODELS.values(), ids=MODELS)
def test_nobody_else_gets_any_of_it(windows: tuple[int | None, ...]) -> None:
    engine, answer, tier = filled(windows)
    assert again(engine, "b").tokens[0] == answer
    assert tier.reads == []
    engine.ledger.reset()
    assert again(engine, "c", LOSSY).updates[-1].metrics.lossy_tokens > 0
    assert tier.reads
    stats = engine.stats().cache
    assert (stats.cached_pages, stats.held_pages) == (0, 0), "nothing that depends on it can be found"
    done = again(engine, "d")
    assert done.tokens[0] == answer
    assert (done.updates[-1].metrics.cached_tokens, done.updates[-1].metrics.lossy_tokens) == (0, 0)
    assert not engine.ledger.index._coming


def test_exact_kv_comes_first_wherever_it_is() -> None:
    engine, answer, tier = filled((None, None), DictTier())
    done = again(engine, "b", LOSSY)
    assert done.tokens[0] == answer
    assert done.updates[-1].metrics.reused == [Reused(Span(0, 96), "disk")]
    assert again(engine, "c", LOSSY).updates[-1].metrics.reused == [Reused(Span(0, 99), "ram")]
    assert tier.reads == []


@pytest.mark.parametrize("windows", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("bad", range(2))
def test_what_does_not_come_is_computed_exactly(windows: tuple[int | None, ...], bad: int) -> None:
    engine, answer, tier = filled(windows)

    def fails(place: Place) -> None:
        if len(tier.reads) == bad:
            raise TierFault(Fault.CORRUPT, "made to fail")

    tier.before_read = fails
    done = again(engine, "b", LOSSY)
    metrics = done.updates[-1].metrics
    assert done.tokens[0] == answer
    unseen = 0 if None in windows else 64
    assert (metrics.cached_tokens, metrics.lossy_tokens) == (unseen, 0)
    assert sum(len(miss.span) for miss in metrics.misses) == 100 - unseen
    stats = engine.stats().cache
    assert (stats.lossy_tokens, stats.hit_tokens) == (0, unseen)
    assert stats.hit_tokens_by_tier["warm_int8"] == 0
    assert again(engine, "c").updates[-1].metrics.cached_tokens == 99, "it was computed exactly, and is found"


def test_a_page_in_int8_is_the_same_entries_in_about_half_the_bytes() -> None:
    exact, lossy = DictTier(), DictTier("warm_int8")
    engine = tiny.make_engine(kv_dtype="int16", step_tokens=16, tiers=[exact, lossy])
    tiny.run(engine, {"a": PROMPT}, GREEDY)
    engine.tiers.flush(10)
    (fmt,) = engine.layout.formats
    assert len(exact.pages) == len(lossy.pages) == 6
    for place, page in exact.pages.items():
        copy = lossy.pages[lossy_place(place, "int8")]
        assert bytes(copy.data) == recoded(np.frombuffer(page.data, np.uint8), fmt, fmt.recoded("int8")).tobytes()
        assert copy.tokens == page.tokens
        assert len(copy.data) < 0.6 * len(page.data)


def test_no_exact_look_up_has_the_key_of_a_copy() -> None:
    key = page_key(PageKey(b"r" * 32), range(16))
    assert lossy_key(key, "int8") not in (key, lossy_key(lossy_key(key, "int8"), "int8"), lossy_key(key, "int4"))


FORMATS = [PageFormat("full", (0, 1), 2, 32, 32, "int16")]


def test_exact_and_lossy_memory_each_have_a_budget() -> None:
    config = TierConfig(warm_bytes="800KiB", warm_int8_bytes="400KiB")
    exact, lossy = open_tiers(config, FORMATS)
    assert (exact.name, lossy.name) == ("warm", "warm_int8")
    for number in range(200):
        for tier, size in ((exact, FORMATS[0].page_bytes), (lossy, FORMATS[0].recoded("int8").page_bytes)):
            place = Place(PageKey(bytes([number] * 32)), 0)
            tier.write(StoredPage(place, PageKey(b""), 0, tuple(range(16)), memoryview(bytes(size))))
            assert tier.usage().used_bytes <= tier.usage().budget_bytes
    assert exact.usage().budget_bytes == 800 * 1024
    assert lossy.usage().budget_bytes == 400 * 1024


def test_what_is_in_int8_already_cannot_lose_anything() -> None:
    with pytest.raises(ConfigError, match="already"):
        open_tiers(TierConfig(warm_int8_bytes="1MiB"), [FORMATS[0].recoded("int8")])


def test_a_compression_needs_exact_kv() -> None:
    with pytest.raises(ParamsError, match="lossy"):
        CacheParams(lossy=True, compression=compression_of("knorm", 0.5))


def test_continuations_share_it() -> None:
    engine, _, _ = filled()
    params = SamplingParams(temperature=0.0, max_tokens=6, ignore_eos=True, n=3)
    done = tiny.run(engine, {"b": PROMPT}, params, cache=LOSSY)["b"]
    assert [done.tokens[n] for n in range(3)] == [in_int8().tokens[0]] * 3
    assert engine.stats().cache.cached_pages == 0


def test_it_is_computed_where_another_format_has_no_room() -> None:
    engine, answer, tier = filled()
    small = tiny.make_engine(kv_bytes=engine.layout.bytes_for(106), step_tokens=16, tiers=[tier])
    done = again(small, "b", LOSSY)
    assert done.tokens[0] in (answer, in_int8().tokens[0])
    assert len(done.tokens[0]) == 6


def test_what_is_computed_after_all_does_not_go_to_pages_for_copies() -> None:
    engine = tiny.make_engine(step_tokens=16)
    engine.submit("x", list(PROMPT), GREEDY)
    kv = engine.requests["x"].sequences[0].kv
    assert kv.reserve_lossy(0, 1, "int8")
    assert kv.reserve(SpanSet.full(32))
    kv.expect(SpanSet((Span(16, 32),)))
    assert kv.tables[0].format_of(1).codec == "int8"
    kv.give_up(kv.pending)
    assert (kv.tables[0].get(0) is not None, kv.tables[0].get(1)) == (True, None)
    assert kv.missing == SpanSet.full(100)
    engine.check()
