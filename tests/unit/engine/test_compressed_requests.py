"""Requests whose context is compressed, between ordinary ones: right answers, and nobody else is disturbed."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

import tiny
from kvloom.arrays import Floats
from kvloom.engine.cache_params import CacheParams
from kvloom.engine.kv import PageNames
from kvloom.engine.outputs import RequestMetrics
from kvloom.engine.params import SamplingParams
from kvloom.engine.scheduler import StepPlan
from kvloom.errors import InternalError, ParamsError, RequestError
from kvloom.eval.single import SingleSequence
from kvloom.memory.format import PAGE_TOKENS
from kvloom.policy.compression import Compression, compression_of
from kvloom.policy.compression.base import LayerContext
from kvloom.policy.compression.controls import KeepAll
from kvloom.policy.compression.needs import Cached, Hidden, Need, rows_of
from kvloom.policy.compression.profile import MadeFor, Profile, write_profile
from kvloom.segment import Miss, Span, SpanSet, Why
from subjects import SUBJECTS


@dataclass(frozen=True)
class StreamSums(KeepAll):
    """Scores from hidden states: the layer's own inputs, and nothing else, say what an entry is worth."""

    name: ClassVar[str] = "stream_sums"
    needs: ClassVar[frozenset[Need]] = frozenset({Hidden(lambda weights: lambda layer, x_RC: x_RC[:, [layer, 5]])})

    def scores(self, context: LayerContext) -> Floats:
        assert context.measured.hidden_SN is not None
        return np.ascontiguousarray(context.measured.hidden_SN.T)


MODELS = {"dense": (None, None), "hybrid": (24, None, 24), "windows-only": (20, 20)}
METHODS = {
    "keep_all": compression_of("keep_all"),
    "keep_none": compression_of("keep_none"),
    "random": compression_of("random", 0.5, seed=3),
    "sink_recent": compression_of("sink_recent", 0.7),
    "knorm": compression_of("knorm", 0.4),
    "snapkv": compression_of("snapkv", 0.5, window=20, kernel=3),
    "laq": compression_of("laq", 0.5, ahead=5),
    "recode": compression_of("knorm", 0.6, compactor="recode"),
    "h2o": compression_of("h2o", 0.6, allocator="adakv"),
    "expected_attention": compression_of("expected_attention", 0.5, sampled=32),
    "compactor": compression_of("compactor", 0.5, chunk=24, sampled=48),
    "kvzip": compression_of("kvzip", 0.6, chunk=40, allocator="global"),
    "critical": compression_of("h2o", 0.6, critical=0.5),
    "demote": compression_of("knorm", 0.5, demote=1.0),
    "keepkv": compression_of("knorm", 0.6, compactor="keepkv", similarity=0.2, reference=8),
    "cam": compression_of("snapkv", 0.6, window=20, compactor="cam", reference=8, neighbours=4),
    "d2o": compression_of("random", 0.6, compactor="d2o"),
    "matching": compression_of("h2o", 0.6, compactor="matching", reference=8),
    "stream_sums": Compression(StreamSums(), 0.5),
}
CONTEXT, COUNT = 90, 8
PROMPT, OTHER = tiny.random_prompt(CONTEXT + 13, 1), tiny.random_prompt(70, 2)
GREEDY = SamplingParams(temperature=0.0, max_tokens=COUNT, ignore_eos=True, logprobs=1)
every_model = pytest.mark.parametrize("windows", MODELS.values(), ids=MODELS)
every_method = pytest.mark.parametrize("method", METHODS)


def compressed(method: str, after: int | None = CONTEXT, **more: Any) -> CacheParams:
    return CacheParams(compression=METHODS[method], compress_after=after, **more)


def ask(engine: tiny.Engine, cache: CacheParams | None = None, prompt: list[int] = PROMPT) -> tiny.Done:
    return tiny.run(engine, {"x": prompt}, GREEDY, cache=cache)["x"]


def scored(done: tiny.Done) -> list[tuple[int, float]]:
    """Tokens and their log probabilities, to the last bit."""
    deltas = [delta for update in done.updates for delta in update.deltas]
    return [(t, s[t].logprob) for d in deltas for t, s in zip(d.token_ids, d.logprobs or (), strict=True)]


def metrics(done: tiny.Done) -> RequestMetrics:
    found: RequestMetrics = done.updates[-1].metrics
    return found


def without_context(windows: tuple[int | None, ...], prompt: list[int], first: int, count: int) -> list[int]:
    """The oracle: a model that gets the tokens from ``first`` on, at their positions, and nothing before them."""
    model, tokens = tiny.TinyModel(windows), list(prompt)
    for _ in range(count):
        attend = tiny.DenseAttend()
        attend.windows = windows
        positions = tiny._Positions(np.arange(first, len(tokens)))
        hidden = model.forward(np.array(tokens[first:]), positions, attend)
        tokens.append(int(model.logits(hidden[-1:])[0].argmax()))
    return tokens[len(prompt) :]


@every_model
@pytest.mark.parametrize("after", [80, CONTEXT, 95, len(PROMPT) - 1, None])
def test_who_keeps_nothing_answers_as_without_a_context(windows: tuple[int | None, ...], after: int | None) -> None:
    done = ask(tiny.make_engine(windows), compressed("keep_none", after))
    first = len(PROMPT) - 1 if after is None else after
    assert done.tokens[0] == without_context(windows, PROMPT, first, COUNT)
    assert metrics(done).compressed.bytes == 0


@every_model
def test_what_lies_in_the_last_partial_page_goes_like_all_else(windows: tuple[int | None, ...]) -> None:
    needle = [*PROMPT[: CONTEXT - 3], 5, 6, 7, *PROMPT[CONTEXT:]]
    engine = tiny.make_engine(windows)
    assert scored(ask(engine)) != scored(ask(engine, prompt=needle))
    assert scored(ask(engine, compressed("keep_none"))) == scored(ask(engine, compressed("keep_none"), needle))


@every_model
@every_method
def test_the_engine_does_what_a_sequence_driven_by_hand_does(windows: tuple[int | None, ...], method: str) -> None:
    engine = tiny.make_engine(windows)
    sequence = SingleSequence(engine, len(PROMPT) + 50)
    sequence.watch(METHODS[method], PROMPT[:CONTEXT])
    sequence.append(PROMPT[:CONTEXT])
    sequence.compress(METHODS[method])
    held, tokens = sequence.held_bytes, []
    logits_V = sequence.append(PROMPT[CONTEXT:])
    for _ in range(COUNT):
        tokens.append(int(logits_V.argmax()))
        logits_V = sequence.append(tokens[-1:])
    done = ask(engine, compressed(method))
    assert done.tokens[0] == tokens
    assert metrics(done).compressed.bytes == held
    assert metrics(done).kv_bytes > held


COMPANY: Mapping[str, tuple[list[int], CacheParams | None]] = {
    "exact": (PROMPT, None),
    "other": (OTHER, None),
    **{name: (PROMPT, compressed(name)) for name in METHODS},
}


@cache
def alone(subject: str, windows: tuple[int | None, ...], name: str) -> list[tuple[int, float]]:
    """What one of the company is answered by an engine that serves nobody else."""
    prompt, params = COMPANY[name]
    return scored(tiny.run(SUBJECTS[subject].make_engine(windows), {name: prompt}, GREEDY, cache=params)[name])


@pytest.mark.parametrize("subject", SUBJECTS)
@every_model
@every_method
def test_company_changes_no_bit(subject: str, windows: tuple[int | None, ...], method: str) -> None:
    """Alone or among exact and compressed ones; found in the cache, or computed."""
    engine = SUBJECTS[subject].make_engine(windows)
    names = [method, *(name for name in COMPANY if name != method)]
    for _ in range(2):
        for name in names:
            prompt, params = COMPANY[name]
            engine.submit(name, prompt, GREEDY, cache=params)
        together = tiny.drain(engine, names)
        assert {name: scored(done) for name, done in together.items()} == {
            name: alone(subject, windows, name) for name in names
        }


@every_model
@every_method
def test_a_second_question_finds_the_exact_context(windows: tuple[int | None, ...], method: str) -> None:
    engine, cache = tiny.make_engine(windows), compressed(method)
    first = ask(engine, cache)
    tiny.forget_results(engine)
    again = ask(engine, cache)
    assert scored(first) == scored(again)
    assert metrics(first).cached_tokens == 0
    watched = rows_of(METHODS[method].needs, CONTEXT)
    if not watched or None in windows:
        assert metrics(again).cached_tokens == CONTEXT - len(watched)  # of its last page, a part
    wanted = [*(Miss(span, Why.WATCHED) for span in watched), Miss(Span(CONTEXT, len(PROMPT)), Why.COMPRESSED)]
    assert [miss for miss in metrics(again).misses if miss.why is not Why.WINDOW] == wanted
    repeated = {"kvzip": 40 + (8 + 40) + (8 + 10), "laq": 5}.get(method, 0)
    assert metrics(again).computed_tokens == len(PROMPT) - metrics(again).cached_tokens + repeated + COUNT - 1
    question = [*PROMPT[:CONTEXT], *OTHER]
    assert scored(ask(engine, cache, question)) == scored(ask(tiny.make_engine(windows), cache, question))


@every_model
@every_method
def test_what_comes_after_a_compression_is_never_found(windows: tuple[int | None, ...], method: str) -> None:
    engine = tiny.make_engine(windows)
    done = ask(engine, compressed(method))
    longer = [*PROMPT, *done.tokens[0]]
    exact = ask(engine, prompt=longer)
    assert metrics(exact).cached_tokens <= CONTEXT
    assert scored(exact) == scored(ask(tiny.make_engine(windows), prompt=longer))
    after = ask(engine, compressed(method), longer)  # nor does what an exact one computed show
    assert metrics(after).cached_tokens <= CONTEXT
    assert scored(after) == scored(ask(tiny.make_engine(windows), compressed(method), longer))


def test_nobody_waits_for_what_will_not_be_found() -> None:
    engine = tiny.make_engine(step_tokens=16)
    engine.submit("x", [*PROMPT, *OTHER], GREEDY, cache=compressed("knorm"))
    engine.step()
    kv = engine.requests["x"].sequences[0].kv
    names = PageNames(kv.names.root, list(kv.tokens))
    names.extend()
    assert kv.names.keys == names.keys[: CONTEXT // PAGE_TOKENS]
    coming = [engine.ledger.index.coming_from(key) is not None for key in names.keys]
    assert coming == [0 < n < CONTEXT // PAGE_TOKENS for n in range(len(names.keys))]


@every_method
def test_pages_alone_are_matched_where_nothing_else_may_be(method: str) -> None:
    engine, cache = tiny.make_engine(), compressed(method, match="pages")
    assert scored(ask(engine, cache)) == scored(ask(engine, cache))
    whole = SpanSet.full(CONTEXT // PAGE_TOKENS * PAGE_TOKENS)
    assert metrics(ask(engine, cache)).cached_tokens == len(whole - rows_of(METHODS[method].needs, CONTEXT))


@pytest.mark.parametrize("cache", [{"read": False}, {"write": False}, {"salt": "mine"}])
def test_other_words_hold_as_ever(cache: dict) -> None:
    engine, asked = tiny.make_engine(), compressed("random", **cache)
    first, again = ask(engine, asked), ask(engine, asked)
    assert scored(first) == scored(again) == scored(ask(tiny.make_engine(), compressed("random")))
    assert metrics(again).cached_tokens == (CONTEXT if "salt" in cache else 0)
    assert metrics(ask(engine)).cached_tokens == (CONTEXT if "read" in cache else 0)


@every_model
@every_method
def test_who_is_preempted_comes_to_the_same(windows: tuple[int | None, ...], method: str) -> None:
    """At any moment: before the context is complete, just after it was compressed, in the middle of the answer."""
    expected = scored(ask(tiny.make_engine(windows), compressed(method)))
    for steps in range(1, 12):
        engine, plan = tiny.make_engine(windows, step_tokens=40), StepPlan(40)
        engine.submit("x", PROMPT, GREEDY, cache=compressed(method))
        updates = [update for _ in range(steps) if engine.has_work for update in engine.step()]
        if not engine.has_work:
            break
        sequence = engine.requests["x"].sequences[0]
        assert not engine.preempt.make_room(sequence, engine.scheduler.queues, plan)
        engine.check()
        done = tiny.drain(engine, ["x"])["x"]
        done.updates[:0] = updates
        assert scored(done) == expected
        assert metrics(done).preemptions == 1
    assert steps > COUNT


def test_who_gets_no_room_gives_way_and_comes_to_the_same() -> None:
    """And does not begin again and again, only to find that there is still no room for its lists."""
    prompts = {f"x-{n}": tiny.random_prompt(CONTEXT + 5 + n, n) for n in range(4)}
    params = SamplingParams(temperature=0.0, max_tokens=60, ignore_eos=True)
    roomy = tiny.run(tiny.make_engine(), prompts, params, cache=compressed("keep_all"))
    preemptions = 0
    for kv_bytes in (270_000, 330_000, 460_000):
        engine = tiny.make_engine(kv_bytes=kv_bytes, step_tokens=24)
        tight = tiny.run(engine, prompts, params, cache=compressed("keep_all"))
        assert {name: done.tokens for name, done in tight.items()} == {n: d.tokens for n, d in roomy.items()}
        preemptions += engine.stats().preemptions
    assert 0 < preemptions < 12


@every_model
@every_method
@pytest.mark.parametrize("max_seqs", [64, 2])
def test_continuations_share_what_is_left(windows: tuple[int | None, ...], method: str, max_seqs: int) -> None:
    """Whether they are forked, or wait for a place and begin anew."""
    params = [SamplingParams(temperature=0.9, seed=5, n=n, max_tokens=20, ignore_eos=True) for n in (1, 4)]
    one, four = (
        tiny.run(tiny.make_engine(windows, max_seqs=max_seqs), {"x": PROMPT}, each, cache=compressed(method))["x"]
        for each in params
    )
    roomy = tiny.run(tiny.make_engine(windows), {"x": PROMPT}, params[1], cache=compressed(method))["x"]
    assert four.tokens == roomy.tokens
    assert four.tokens[0] == one.tokens[0]
    assert len({tuple(tokens) for tokens in four.tokens.values()}) > 1


@every_model
@every_method
def test_who_is_aborted_leaves_nothing(windows: tuple[int | None, ...], method: str) -> None:
    for steps in range(1, 9):
        engine = tiny.make_engine(windows, step_tokens=40)
        engine.submit("x", PROMPT, GREEDY, cache=compressed(method))
        for _ in range(steps):
            engine.step()
            engine.check()
        engine.abort("x")
        engine.check()
        assert engine.stats().cache.held_bytes == 0
        tiny.forget_results(engine)
        assert not any(fmt.labelled for fmt in {slab.format for _, slab in engine.ledger.arena.slabs()})


def test_a_storm_of_all_kinds_adds_up() -> None:
    rng = random.Random(4)
    expected: dict[str, list[int]] = {}
    engine = tiny.make_engine((24, None), kv_bytes=600_000, step_tokens=32, max_seqs=6)
    waiting = {}
    for n in range(60):
        prompt = [*tiny.random_prompt(64, n % 3), *tiny.random_prompt(rng.randrange(20, 60), n)]
        after = rng.choice([None, 32, 64, 70, 79])
        cache = compressed(rng.choice(sorted(METHODS)), after) if n % 3 else CacheParams()
        waiting[f"s-{n}"] = prompt, cache
        roomy = tiny.make_engine((24, None))
        expected[f"s-{n}"] = tiny.run(roomy, {"x": prompt}, GREEDY, check=False, cache=cache)["x"].tokens[0]
    got: dict[str, list[int]] = {name: [] for name in waiting}
    aborted = set()
    pending = dict(waiting)
    while pending or engine.has_work:
        while pending and rng.random() < 0.6:
            name = next(iter(pending))
            engine.submit(name, pending[name][0], GREEDY, cache=pending.pop(name)[1])
        if engine.requests and rng.random() < 0.05:
            name = rng.choice(sorted(engine.requests))
            engine.abort(name)
            aborted.add(name)
        if rng.random() < 0.02:
            engine.reset_cache()
        for update in engine.step():
            assert update.error is None
            got[update.request_id] += [token for delta in update.deltas for token in delta.token_ids]
        engine.check()
    assert engine.stats().preemptions > 0
    for name, tokens in got.items():
        assert tokens == expected[name][: len(tokens)]
        assert name in aborted or len(tokens) == COUNT
    assert engine.stats().cache.held_bytes == 0


def test_a_context_is_compressed_in_the_room_that_it_had() -> None:
    """Both forms of it are never there at once; what may not fit afterwards is refused at once."""
    prompt = tiny.random_prompt(400, 5)
    params = SamplingParams(temperature=0.0, max_tokens=4, ignore_eos=True)
    need = tiny.make_engine().layout.bytes_for(410)
    engine = tiny.make_engine(kv_bytes=need + 10_000)
    for method in ("knorm", "h2o"):
        cache = CacheParams(compression=METHODS[method], compress_after=380)
        less = tiny.run(engine, {"x": prompt}, params, cache=cache)["x"]
        assert less.tokens == tiny.run(tiny.make_engine(), {"x": prompt}, params, cache=cache)["x"].tokens
    assert engine.stats().preemptions == 0
    assert engine.stats().cache.held_bytes == 0
    layers = (None,) * 16  # of so many, labels make lists of all entries larger than pages with their records
    need = tiny.make_engine(layers).layout.bytes_for(410)
    small = tiny.make_engine(layers, kv_bytes=need)
    with pytest.raises(RequestError, match="may need") as refused:
        small.submit("x", prompt, params, cache=CacheParams(compression=METHODS["keep_all"]))
    assert refused.value.param == "compression"


@dataclass(frozen=True)
class Failing(KeepAll):
    name: ClassVar[str] = "failing"
    needs: ClassVar[frozenset[Need]] = frozenset({Cached.VALUES})

    def scores(self, context: LayerContext) -> Floats:
        assert context.v_SKD.shape == (CONTEXT, 2, 16)
        if context.layer == 1:
            raise ZeroDivisionError("a method of the user's own")
        return super().scores(context)


def test_a_method_that_fails_ends_its_request_and_no_other(caplog: pytest.LogCaptureFixture) -> None:
    engine = tiny.make_engine()
    cache = CacheParams(compression=Compression(Failing(), 0.5), compress_after=CONTEXT)
    engine.submit("bad", PROMPT, GREEDY, cache=cache)
    engine.submit("good", OTHER, GREEDY)
    done = tiny.drain(engine, ["bad", "good"])
    error = done["bad"].updates[-1].error
    assert isinstance(error, InternalError)
    assert "ZeroDivisionError: a method of the user's own" in str(error)
    assert done["bad"].reasons == {0: "error"}
    assert scored(done["good"]) == scored(ask(tiny.make_engine(), prompt=OTHER))
    assert engine.stats().cache.held_bytes == 0


def test_memory_is_freed_and_what_was_held_meanwhile_is_told() -> None:
    engine = tiny.make_engine()
    engine.submit("x", PROMPT, GREEDY, cache=compressed("keep_none"))
    held = []
    while engine.has_work:
        engine.step()
        held.append((engine.held_bytes, engine.stats().cache.held_bytes))
    dense = max(peak for peak, _ in held)
    assert all(after < 0.4 * dense for _, after in held[-4:])


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"compression": "knorm"}, "compression"),
        ({"compress_after": 4}, "compress_after"),
        ({"compression": METHODS["knorm"], "compress_after": -1}, "compress_after"),
        ({"compression": METHODS["knorm"], "compress_after": 3.0}, "compress_after"),
        ({"compression": METHODS["knorm"], "compress_after": True}, "compress_after"),
    ],
)
def test_words_that_make_no_sense_are_refused(asked: dict, param: str) -> None:
    with pytest.raises(ParamsError, match=param) as caught:
        CacheParams(**asked)
    assert caught.value.param == param


def test_a_context_leaves_a_token_of_the_prompt() -> None:
    engine = tiny.make_engine()
    with pytest.raises(ParamsError, match=r"must leave a token of the prompt, which has 70; got 70") as caught:
        engine.submit("x", OTHER, GREEDY, cache=compressed("knorm", 70))
    assert caught.value.param == "compress_after"
    assert not engine.has_work
    exact = ask(engine, prompt=OTHER[:1])
    assert scored(ask(engine, compressed("keep_none", None), OTHER[:1])) == scored(exact)  # there is no context
    assert scored(ask(engine, compressed("keep_none", 0), OTHER)) == scored(ask(engine, prompt=OTHER))


def test_scores_of_the_prompt_are_those_over_what_is_left() -> None:
    params = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0)
    engine = tiny.make_engine()
    exact, less = (
        tiny.run(engine, {"x": PROMPT}, params, cache=cache)["x"].updates[-1].prompt_logprobs
        for cache in (None, compressed("keep_none"))
    )
    assert exact[: CONTEXT + 0] == less[: CONTEXT + 0]
    assert exact[CONTEXT + 1 :] != less[CONTEXT + 1 :]


@pytest.mark.parametrize("kv_dtype", ["float32", "float16", "bfloat16", "int16", "int8"])
@pytest.mark.parametrize("method", ["keep_all", "knorm"])
def test_every_number_format_is_moved_as_it_is(kv_dtype: str, method: str) -> None:
    """Over pages that held anything before."""
    exact = tiny.make_engine((None, 24), kv_dtype=kv_dtype)
    dirty = tiny.make_engine((None, 24), kv_dtype=kv_dtype)
    dirty.ledger.arena.memory[:] = 0xFF
    clean, after = ask(exact, compressed(method)), ask(dirty, compressed(method))
    assert scored(clean) == scored(after)
    if method == "keep_all":
        assert clean.tokens == ask(exact).tokens


def test_a_profile_is_bound_to_the_weights_that_are_served(tmp_path: Path) -> None:
    """The engine says whose KV it is: a profile of these weights divides it as by hand, another is refused."""
    engine = tiny.make_engine()
    heads, layers = engine.layout.formats[0].heads, engine.layout.formats[0].layers
    shares_G = np.linspace(0, 1, 5)
    steep_LK = 1.0 + np.arange(len(layers) * heads, dtype=np.float32).reshape(1, len(layers), heads, 1)
    losses_BLKG = steep_LK * (1 - shares_G) ** 2
    for weights, name in ((engine.model.weights_id, "own.json"), ("others", "other.json")):
        made_for = MadeFor(weights, "knorm")
        write_profile(Profile(made_for, (1,), layers, shares_G, losses_BLKG.astype(np.float32)), tmp_path / name)

    def method(name: str) -> Compression:
        return compression_of("knorm", 0.5, allocator="lukv", profile=tmp_path / name)

    done = ask(engine, CacheParams(compression=method("own.json"), compress_after=CONTEXT))
    sequence = SingleSequence(tiny.make_engine(), len(PROMPT) + COUNT)
    sequence.append(PROMPT[:CONTEXT])
    sequence.compress(method("own.json"))
    logits_V, tokens = sequence.append(PROMPT[CONTEXT:]), []
    for _ in range(COUNT):
        tokens.append(int(logits_V.argmax()))
        logits_V = sequence.append([tokens[-1]])
    assert done.tokens == {0: tokens}
    assert metrics(done).compressed.bytes > 0
    refused = ask(engine, CacheParams(compression=method("other.json"), compress_after=CONTEXT))
    assert isinstance(refused.updates[-1].error, ParamsError)
    assert "weights 'others'" in str(refused.updates[-1].error)
    engine.check()
