"""What a request reads from the cache and leaves there: the answers are the same."""

from __future__ import annotations

import math
import random
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny
from kvloom import LLM
from kvloom.engine.cache_params import CacheParams
from kvloom.engine.defaults import SamplingDefaults
from kvloom.engine.outputs import RequestMetrics
from kvloom.engine.params import SamplingParams
from kvloom.errors import ParamsError, RequestError
from kvloom.memory.keys import extend_keys, root_key
from kvloom.segment import Miss, PageKey, Span, Why

GREEDY = SamplingParams(temperature=0.0, max_tokens=6, ignore_eos=True)
PROMPT = tiny.random_prompt(71, 1)
MODELS = {"dense": (None, None), "hybrid": (24, None, 24), "windows-only": (20, 20)}
TIGHT = {"dense": 200_000, "hybrid": 420_000, "windows-only": 400_000}
BLIND, MUTE = CacheParams(read=False), CacheParams(write=False)


@pytest.mark.parametrize(
    ("field", "value"),
    [("salt", 5), ("salt", "\ud800"), ("read", 1), ("read", None), ("write", "yes"), ("match", "words"), ("match", 3)]
    + [("priority", value) for value in (-1, 101, 50.0, True, None)]
    + [(name, value) for name in ("ttl_s", "pin_s") for value in (-1, math.inf, math.nan, True, "10")],
)
def test_values_out_of_range_are_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ParamsError, match=field) as caught:
        CacheParams(**{field: value})
    assert caught.value.param == field


def ask(engine: tiny.Engine, prompt: list[int], cache: CacheParams, params: SamplingParams = GREEDY) -> RequestMetrics:
    return tiny.run(engine, {"x": prompt}, params, cache=cache)["x"].updates[-1].metrics


def test_hints_reach_what_is_stored_and_the_higher_ones_stay() -> None:
    engine = tiny.make_engine()
    ask(engine, PROMPT, CacheParams(priority=20, ttl_s=5))
    blocks = engine.ledger.events.idle_blocks
    assert {tuple(sorted(each.hints.items())) for each in blocks.values()} == {(("priority", 20), ("ttl_s", 5))}
    ask(engine, PROMPT[:48], CacheParams(ttl_s=0.5))
    assert [dict(each.hints) for each in blocks.values() if each.position < 32] == 2 * [{"ttl_s": 5}]
    assert dict(max(blocks.values(), key=lambda each: each.position).hints) == {"priority": 20, "ttl_s": 5}


@pytest.fixture(params=MODELS.values(), ids=MODELS)
def engine(request: pytest.FixtureRequest) -> tiny.Engine:
    return tiny.make_engine(request.param)


def test_who_does_not_read_computes_everything(engine: tiny.Engine) -> None:
    ask(engine, PROMPT, CacheParams())
    metrics = ask(engine, PROMPT, BLIND)
    assert (metrics.cached_tokens, metrics.computed_tokens) == (0, len(PROMPT) + 5)
    assert (metrics.misses, metrics.reused) == ([Miss(Span(0, len(PROMPT)), Why.NOT_ASKED)], [])
    assert engine.stats().cache.misses_by_why[Why.NOT_ASKED] == len(PROMPT)


def test_who_does_not_read_is_found_by_others(engine: tiny.Engine) -> None:
    ask(engine, PROMPT, BLIND)
    assert ask(engine, PROMPT, CacheParams()).cached_tokens == len(PROMPT) - 1


def test_who_does_not_read_keeps_its_own_pages() -> None:
    """A page that was there first is not taken in the place of one that was computed."""
    engine = tiny.make_engine()
    ask(engine, PROMPT, CacheParams())
    before = set(engine.ledger.index.pages())
    engine.submit("own", PROMPT, GREEDY, cache=BLIND)
    for _ in range(3):
        engine.step()
    (sequence,) = engine.requests["own"].sequences
    own = {page for table in sequence.kv.tables for _, page in table.pages()}
    assert own
    assert not own & before
    tiny.drain(engine, ["own"])
    assert set(engine.ledger.index.pages()) >= before


def test_who_does_not_write_is_found_by_nobody(engine: tiny.Engine) -> None:
    ask(engine, PROMPT, MUTE)
    assert not engine.ledger.index.entries
    cache = engine.stats().cache
    assert (cache.held_pages, cache.cached_pages) == (0, 0)
    metrics = ask(engine, PROMPT, CacheParams())
    untouched = ask(tiny.make_engine(engine.model.windows), PROMPT, CacheParams())
    assert (metrics.cached_tokens, metrics.misses) == (0, untouched.misses), "and no reason tells of it"


def test_who_does_not_write_reads(engine: tiny.Engine) -> None:
    ask(engine, PROMPT, CacheParams())
    assert ask(engine, PROMPT, MUTE).cached_tokens == len(PROMPT) - 1


def test_nobody_waits_for_what_is_not_going_to_be_there() -> None:
    engine = tiny.make_engine(step_tokens=8)
    engine.submit("mute", PROMPT, GREEDY, cache=MUTE)
    engine.submit("next", PROMPT, GREEDY)
    engine.step()
    engine.step()
    engine.abort("mute")
    assert tiny.drain(engine, ["next"])["next"].tokens[0] == tiny.oracle((None, None), PROMPT, 6)


@pytest.mark.parametrize("cache", [BLIND, MUTE], ids=["not read", "not written"])
def test_continuations_share_their_prompt(cache: CacheParams) -> None:
    params = SamplingParams(n=4, seed=5, temperature=1.0, max_tokens=6, ignore_eos=True)
    engine = tiny.make_engine()
    done = tiny.run(engine, {"fork": PROMPT}, params, cache=cache)["fork"]
    assert done.updates[-1].metrics.computed_tokens == len(PROMPT) + 4 * 5
    assert done.tokens == tiny.run(tiny.make_engine(), {"fork": PROMPT}, params)["fork"].tokens
    narrow = tiny.make_engine(max_seqs=2, step_tokens=7)
    assert tiny.run(narrow, {"fork": PROMPT}, params, cache=cache)["fork"].tokens == done.tokens


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), name=st.sampled_from(sorted(MODELS)), tight=st.booleans())
def test_any_mix(seed: int, name: str, tight: bool) -> None:
    """Tokens are those of a cold run, only what was written can be found, and the ledger adds up after every step."""
    windows, chance = MODELS[name], random.Random(seed)
    kv_bytes = TIGHT[name] if tight else "2MiB"
    engine = tiny.make_engine(windows, kv_bytes=kv_bytes, step_tokens=chance.choice([8, 24, 64]))
    base, written, asked = tiny.random_prompt(80, seed), [], {}
    for n in range(9):
        cache = CacheParams(read=chance.random() < 0.5, write=chance.random() < 0.5, salt=chance.choice([None, "t"]))
        prompt = base[: chance.randrange(1, 80)] + tiny.random_prompt(chance.randrange(0, 12), n)
        asked[f"r{n}"] = prompt, cache
        engine.submit(f"r{n}", prompt, GREEDY, cache=cache)
        if n == 8 or chance.random() < 0.4:
            for one, done in tiny.drain(engine, list(asked)).items():
                prompt, cache = asked[one]
                cold = tiny.run(tiny.make_engine(windows), {"cold": prompt}, GREEDY)["cold"]
                assert done.tokens == cold.tokens
                if cache.write:
                    written.append((cache.salt, [*prompt, *done.tokens[0]]))
                if not cache.read:
                    assert done.updates[-1].metrics.misses == [Miss(Span(0, len(prompt)), Why.NOT_ASKED)]
            asked = {}
            assert_only_found(engine, written)
    assert engine.stats().cache.held_pages == 0


def assert_only_found(engine: tiny.Engine, written: list[tuple[str | None, list[int]]]) -> None:
    """Everything in the index is a page of one of these texts."""
    pages: set[tuple[PageKey, tuple[int, ...]]] = set()
    for salt, tokens in written:
        root = root_key(weights=engine.model.weights_id, formats=engine.layout.identity, salt=salt)
        keys: list[PageKey] = []
        extend_keys(keys, root, tokens)
        for n, parent in enumerate([root, *keys]):
            page = tokens[n * 16 : (n + 1) * 16]
            pages |= {(parent, tuple(page[:size])) for size in range(1, len(page) + 1)}
    assert {(entry.parent, entry.tokens) for entry in engine.ledger.index.entries.values()} <= pages


@pytest.fixture
def llm(monkeypatch: pytest.MonkeyPatch) -> LLM:
    loaded = SimpleNamespace(engine=tiny.make_engine(), tokenizer=tiny.CharTokenizer(), defaults=SamplingDefaults())
    monkeypatch.setattr("kvloom.engine.llm.build", lambda config: loaded)
    return LLM("tiny")


def test_the_library_takes_one_for_all_or_one_per_prompt(llm: LLM) -> None:
    def cached(cache: CacheParams | list[CacheParams] | None) -> list[int]:
        return [
            output.metrics.cached_tokens for output in llm.generate([PROMPT, PROMPT[:40]], GREEDY, cache_params=cache)
        ]

    assert cached(MUTE) == [0, 0]
    assert cached(None) == [0, 39]
    assert cached(BLIND) == [0, 0]
    assert cached([CacheParams(), BLIND]) == [70, 0]
    assert cached(CacheParams(salt="mine", write=False)) == [0, 0]
    with pytest.raises(RequestError, match="2 prompts but 1 cache_params") as caught:
        cached([BLIND])
    assert caught.value.param == "cache_params"


def test_conversations_too(llm: LLM) -> None:
    talk = [{"role": "user", "content": "What is the capital of France?"}]
    for cache, cached in ((MUTE, False), (None, False), (BLIND, False), (None, True)):
        (output,) = llm.chat(talk, GREEDY, cache_params=cache)
        assert bool(output.metrics.cached_tokens) == cached
