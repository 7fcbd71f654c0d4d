"""What is left of a context is kept for the next who asks the same of it: same answer, and nothing computed again."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny
from kvloom.engine.cache_params import CacheParams
from kvloom.engine.outputs import RequestMetrics
from kvloom.engine.params import SamplingParams
from kvloom.engine.scheduler import StepPlan
from kvloom.errors import InternalError
from kvloom.memory.format import PAGE_TOKENS
from kvloom.policy.actions import Drop
from kvloom.policy.compression import Compression, compression_of
from kvloom.policy.compression.identity import identity_of
from kvloom.policy.compression.knorm import Knorm
from kvloom.policy.compression.predictor import Predictor, write_predictor
from kvloom.policy.compression.profile import MadeFor, Profile, write_profile
from kvloom.policy.retention import POLICIES
from kvloom.segment import Miss, Span, Why

CONTEXT, COUNT = 90, 6
TEXT, REST, OTHER = tiny.random_prompt(CONTEXT, 1), tiny.random_prompt(13, 2), tiny.random_prompt(17, 3)
GREEDY = SamplingParams(temperature=0.0, max_tokens=COUNT, ignore_eos=True, logprobs=1)
MODELS = {"dense": (None, None), "hybrid": (24, None, 24), "windows-only": (20, 20)}
METHODS = {
    "keep_all": compression_of("keep_all"),
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
    "matching": compression_of("h2o", 0.6, compactor="matching", reference=8),
}
every_model = pytest.mark.parametrize("windows", MODELS.values(), ids=MODELS)
every_method = pytest.mark.parametrize("method", METHODS)
some_methods = pytest.mark.parametrize("method", ["knorm", "snapkv", "kvzip"])


def asked(method: str | Compression, after: int = CONTEXT, **more: Any) -> CacheParams:
    compression = METHODS[method] if isinstance(method, str) else method
    return CacheParams(compression=compression, compress_after=after, **more)


def ask(engine: tiny.Engine, cache: CacheParams | None = None, rest: list[int] = REST, **more: Any) -> tiny.Done:
    return tiny.run(engine, {"x": [*TEXT, *rest]}, replace(GREEDY, **more), cache=cache)["x"]


def scored(done: tiny.Done) -> list[tuple[int, float]]:
    """Tokens and their log probabilities, to the last bit."""
    deltas = [delta for update in done.updates for delta in update.deltas]
    return [(t, s[t].logprob) for d in deltas for t, s in zip(d.token_ids, d.logprobs or (), strict=True)]


def metrics(done: tiny.Done) -> RequestMetrics:
    found: RequestMetrics = done.updates[-1].metrics
    return found


def cached(done: tiny.Done) -> int:
    return metrics(done).cached_tokens


@every_model
@every_method
def test_only_the_rest_is_computed_and_the_answer_is_the_same(windows: tuple[int | None, ...], method: str) -> None:
    engine, cache = tiny.make_engine(windows), asked(method)
    first, again, other = ask(engine, cache), ask(engine, cache), ask(engine, cache, OTHER)
    assert scored(again) == scored(first)
    assert scored(other) == scored(ask(tiny.make_engine(windows), cache, OTHER))
    for done, rest in ((again, REST), (other, OTHER)):
        assert cached(done) == CONTEXT
        assert metrics(done).computed_tokens == len(rest) + COUNT - 1
        assert metrics(done).misses == [Miss(Span(CONTEXT, CONTEXT + len(rest)), Why.COMPRESSED)]
        assert metrics(done).compressed == metrics(first).compressed
    assert len(engine.results) == 1


def test_nothing_is_kept_where_nothing_is_left_or_nobody_knows_what_it_depends_on() -> None:
    class MyKnorm(Knorm):
        pass

    class Odd(Knorm):
        name = "odd"

    engine = tiny.make_engine()
    for compression in (compression_of("keep_none"), Compression(MyKnorm(), 0.5), Compression(Odd(), 0.5)):
        for _ in range(2):
            ask(engine, asked(compression))
        assert len(engine.results) == 0
    assert engine.stats().cache.cached_bytes == sum(engine.ledger.bytes_of(fmt)[1] for fmt in engine.layout.formats)


@pytest.mark.parametrize(
    "changed",
    [
        compression_of("knorm", 0.5),
        compression_of("knorm", 0.4, protect_first=4),
        compression_of("knorm", 0.4, allocator="adakv"),
        compression_of("knorm", 0.4, compactor="d2o"),
        compression_of("knorm", 0.4, critical=0.5),
        compression_of("knorm", 0.4, demote=1.0),
        compression_of("keydiff", 0.4),
    ],
    ids=str,
)
def test_who_asks_for_something_else_finds_nothing_of_it(changed: Compression) -> None:
    engine = tiny.make_engine()
    ask(engine, asked("knorm"))
    done = ask(engine, asked(changed))
    assert Miss(Span(CONTEXT, CONTEXT + len(REST)), Why.COMPRESSED) in metrics(done).misses
    assert scored(done) == scored(ask(tiny.make_engine(), asked(changed)))
    assert metrics(done).compressed.params == changed.params
    assert len(engine.results) == 2
    tiny.forget_results(engine)
    assert cached(ask(engine, asked("knorm", CONTEXT - 1))) == CONTEXT - 1  # exact: the same method, another context
    assert len(engine.results) == 1


def test_what_a_file_held_is_part_of_what_is_asked_for(tmp_path: Path) -> None:
    engine = tiny.make_engine()
    heads, layers = engine.layout.formats[0].heads, engine.layout.formats[0].layers

    def method(name: str, first: float) -> Compression:
        losses_LKG = np.linspace(1, 0, 5) * np.geomspace(first, 1, len(layers) * heads).reshape(len(layers), heads, 1)
        made_for = MadeFor(engine.model.weights_id, "knorm")
        made = Profile(made_for, (1,), layers, np.linspace(0, 1, 5), losses_LKG[None].astype(np.float32))
        write_profile(made, tmp_path / name)
        return compression_of("knorm", 0.5, allocator="lukv", profile=tmp_path / name)

    one, same, other = method("a.json", 10.0), method("b.json", 10.0), method("a.json", 0.01)
    assert identity_of(one) == identity_of(same) != identity_of(other)
    first = ask(engine, asked(one))
    again, changed = ask(engine, asked(same)), ask(engine, asked(other))
    assert (len(engine.results), scored(again)) == (2, scored(first))
    assert metrics(again).compressed.params["profile"].endswith("b.json")
    assert metrics(changed).compressed.kept != metrics(first).compressed.kept


def test_what_a_predictor_says_is_part_of_it(tmp_path: Path) -> None:
    engine, prompt = tiny.make_engine(), [*TEXT, *REST]

    def method(name: str, seed: int) -> Compression:
        heads = tiny.KV_HEADS
        maps = np.random.default_rng(seed).standard_normal((2, heads, tiny.WIDTH)).astype(np.float16)
        arrays = maps, np.zeros((2, heads), np.float32), np.zeros((2, heads, 0), np.float16)
        write_predictor(Predictor(engine.model.weights_id, "tiny", (0, 1), *arrays, {}), tmp_path / name)
        return compression_of("kvzap", 0.5, predictor=tmp_path / name)

    one, same, other = method("a.npz", 1), method("b.npz", 1), method("a.npz", 2)
    found = [tiny.run(engine, {"x": prompt}, GREEDY, cache=asked(each))["x"] for each in (one, same, other)]
    assert [cached(done) for done in found] == [0, CONTEXT, 0]
    assert scored(found[0]) == scored(found[1]) != scored(found[2])


@pytest.mark.parametrize(
    ("words", "found"), [({}, CONTEXT), ({"salt": "mine"}, 0), ({"read": False}, 0), ({"write": False}, CONTEXT)]
)
def test_permissions_hold_as_for_pages(words: dict, found: int) -> None:
    engine = tiny.make_engine()
    first = ask(engine, asked("h2o"))
    done = ask(engine, asked("h2o", **words))
    assert scored(done) == scored(first)
    assert cached(done) == found
    assert len(engine.results) == (2 if "salt" in words else 1)


def test_who_writes_nothing_leaves_nothing() -> None:
    engine = tiny.make_engine()
    ask(engine, asked("h2o", write=False))
    assert (len(engine.results), engine.stats().cache.cached_pages) == (0, 0)


@pytest.mark.parametrize("after", [CONTEXT, 80])
def test_who_matches_in_pages_sees_nothing_that_ends_inside_of_one(after: int) -> None:
    engine = tiny.make_engine()
    expected = scored(ask(engine, asked("h2o", after)))
    done = ask(engine, asked("h2o", after, match="pages"))
    assert scored(done) == expected
    assert cached(done) == (0 if after % PAGE_TOKENS else after)  # h2o looks at all rows


def test_scores_of_the_prompt_are_computed() -> None:
    engine = tiny.make_engine()
    first, again = (ask(engine, asked("knorm"), prompt_logprobs=0) for _ in range(2))
    assert cached(again) == 0
    assert first.updates[-1].prompt_logprobs == again.updates[-1].prompt_logprobs


@every_model
def test_exact_requests_find_what_they_would_find_anyway(windows: tuple[int | None, ...]) -> None:
    kept, dropped = tiny.make_engine(windows), tiny.make_engine(windows)
    for engine in (kept, dropped):
        for method in METHODS:
            ask(engine, asked(method))
    tiny.forget_results(dropped)
    assert len(kept.results) == len(METHODS)
    for rest in (REST, OTHER, []):
        ours, theirs = ask(kept, rest=rest), ask(dropped, rest=rest)
        assert scored(ours) == scored(theirs) == scored(ask(tiny.make_engine(windows), rest=rest))
        assert (cached(ours), metrics(ours).misses) == (cached(theirs), metrics(theirs).misses)


@every_model
def test_it_goes_as_a_whole_and_is_made_anew(windows: tuple[int | None, ...]) -> None:
    engine, cache = tiny.make_engine(windows), asked("snapkv")
    expected = scored(ask(engine, cache))
    labelled = [block.page for block in engine.ledger.events.idle_blocks.values() if block.format.labelled]
    assert len(labelled) == len(set(windows))
    for page in labelled:
        engine.ledger.apply(Drop(page))
        engine.check()
        assert len(engine.results) == 0
        assert scored(ask(engine, cache)) == expected
        assert len(engine.results) == 1
        left = [block.page for block in engine.ledger.events.idle_blocks.values() if block.format.labelled]
        assert len(left) == len(labelled)
        assert cached(ask(engine, cache)) == CONTEXT
        labelled[labelled.index(page) + 1 :] = left[labelled.index(page) + 1 :]


@pytest.mark.parametrize("retention", POLICIES)
def test_it_is_dropped_when_room_is_needed(retention: str) -> None:
    """And counts as cached until then."""
    engine = tiny.make_engine((24, None), kv_bytes=400_000, retention=retention)
    expected = scored(ask(engine, asked("knorm")))
    exact, cache = sum(engine.ledger.bytes_of(fmt)[1] for fmt in engine.layout.formats), engine.stats().cache
    assert cache.cached_bytes > exact
    assert cache.held_bytes == 0
    tiny.run(engine, {"x": tiny.random_prompt(engine.max_len - COUNT, 50)}, GREEDY)
    assert len(engine.results) == 0
    assert scored(ask(engine, asked("knorm"))) == expected


def test_lists_and_pages_compete() -> None:
    """What was used last stays, whichever it is."""
    engine, left = tiny.make_engine(kv_bytes=800_000), []
    for prompts, length, cache in ((24, 200, None), (6, 100, asked("random")), (24, 200, None)):
        for seed in range(prompts):
            tiny.run(engine, {"x": tiny.random_prompt(length, length + seed)}, GREEDY, cache=cache)
        left.append(len(engine.results))
    assert left == [0, 6, 0]


def test_others_go_before_one_of_higher_priority() -> None:
    engine = tiny.make_engine(kv_bytes=400_000)
    ask(engine, asked("knorm", priority=80))
    for seed in range(12):
        tiny.run(engine, {"x": tiny.random_prompt(150, 50 + seed)}, GREEDY, cache=asked("knorm", 140))
    assert 1 < len(engine.results) < 13
    assert cached(ask(engine, asked("knorm"))) == CONTEXT


def test_a_reset_forgets_it_and_who_holds_it_goes_on() -> None:
    engine, cache = tiny.make_engine(), asked("knorm")
    expected = scored(ask(engine, cache))
    engine.submit("x", [*TEXT, *REST], GREEDY, cache=cache)
    updates = engine.step()
    engine.reset_cache()
    engine.check()
    assert len(engine.results) == 0
    done = tiny.drain(engine, ["x"])["x"]
    done.updates[:0] = updates
    assert (scored(done), cached(done)) == (expected, CONTEXT)
    assert engine.stats().cache.held_bytes == 0
    assert cached(ask(engine, cache)) == 0


@every_model
@some_methods
def test_who_comes_meanwhile_waits_for_it(windows: tuple[int | None, ...], method: str) -> None:
    engine, rests = tiny.make_engine(windows), {"a": REST, "b": OTHER, "c": REST}
    prompts = {name: [*TEXT, *rest] for name, rest in rests.items()}
    done = tiny.run(engine, prompts, GREEDY, cache=asked(method))
    assert [cached(done[name]) for name in rests] == [0, CONTEXT, CONTEXT]
    for name, rest in rests.items():
        assert scored(done[name]) == scored(ask(tiny.make_engine(windows), asked(method), rest))


def test_nobody_waits_in_vain() -> None:
    """Not for one who is aborted, or who will not let others find it."""
    for words, aborted in (({}, True), ({"write": False}, False)):
        engine = tiny.make_engine(step_tokens=16)
        engine.submit("a", [*TEXT, *REST], GREEDY, cache=asked("h2o", **words))
        engine.step()
        engine.submit("b", [*TEXT, *REST], GREEDY, cache=asked("h2o"))
        engine.step()
        if aborted:
            engine.abort("a")
        done = tiny.drain(engine, ["a", "b"])["b"]
        assert scored(done) == scored(ask(tiny.make_engine(), asked("h2o")))


@every_model
@some_methods
def test_who_found_it_may_be_aborted_or_preempted_at_any_moment(windows: tuple[int | None, ...], method: str) -> None:
    for steps in range(1, 10):
        for preempted in (False, True):
            engine, plan = tiny.make_engine(windows, step_tokens=8), StepPlan(8)
            expected = scored(ask(engine, asked(method)))
            engine.submit("x", [*TEXT, *REST], GREEDY, cache=asked(method))
            updates = [update for _ in range(steps) if engine.has_work for update in engine.step()]
            if not engine.has_work:
                break
            if preempted:
                sequence = engine.requests["x"].sequences[0]
                assert not engine.preempt.make_room(sequence, engine.scheduler.queues, plan)
                engine.check()
                done = tiny.drain(engine, ["x"])["x"]
                done.updates[:0] = updates
                assert scored(done) == expected
            else:
                engine.abort("x")
            engine.check()
            assert engine.stats().cache.held_bytes == 0
            if not plan.failed and not preempted:
                assert cached(ask(engine, asked(method))) == CONTEXT
    assert steps > COUNT


@every_model
@some_methods
@pytest.mark.parametrize("max_seqs", [64, 2])
def test_continuations_share_it(windows: tuple[int | None, ...], method: str, max_seqs: int) -> None:
    params = {"temperature": 0.9, "seed": 5, "n": 4, "max_tokens": 20}
    engine = tiny.make_engine(windows, max_seqs=max_seqs)
    first, again = (ask(engine, asked(method), **params) for _ in range(2))
    assert first.tokens == again.tokens
    assert cached(again) == CONTEXT
    assert len({tuple(tokens) for tokens in first.tokens.values()}) > 1


@pytest.mark.parametrize("kv_dtype", ["float32", "float16", "bfloat16", "int16", "int8"])
def test_every_number_format_is_kept_as_it_is(kv_dtype: str) -> None:
    engine = tiny.make_engine((None, 24), kv_dtype=kv_dtype)
    first, again = (ask(engine, asked("keepkv")) for _ in range(2))
    assert (scored(again), cached(again)) == (scored(first), CONTEXT)


def test_the_audit_knows_them() -> None:
    engine = tiny.make_engine()
    ask(engine, asked("knorm"))
    known = dict(engine.results._keys)
    engine.results._keys.clear()
    with pytest.raises(InternalError, match="a result has pages"):
        engine.check()
    engine.results._keys |= {**known, 10**6: next(iter(known.values()))}
    with pytest.raises(InternalError, match="2 pages are said to be those of 1 results"):
        engine.check()
    (entry,) = [e for e in engine.ledger.index.entries.values() if any(map(_labelled(engine).__contains__, e.pages))]
    engine.results._keys.pop(10**6)
    entry.pages[0] = None
    with pytest.raises(InternalError, match="pages in entries"):
        engine.check()


def _labelled(engine: tiny.Engine) -> set[int]:
    return {block.page for block in engine.ledger.events.idle_blocks.values() if block.format.labelled}


def test_a_storm_over_few_contexts_adds_up() -> None:
    rng = random.Random(8)
    engine = tiny.make_engine((24, None), kv_bytes=500_000, step_tokens=32, max_seqs=5)
    texts = [tiny.random_prompt(length, 20 + length) for length in (64, 75, 96)]
    pending, expected, aborted, found = {}, {}, set(), Counter[bool]()
    for n in range(60):
        text, method = rng.choice(texts), rng.choice(["knorm", "snapkv", "kvzip"])
        prompt = [*text, *tiny.random_prompt(rng.randrange(1, 30), n)]
        cache = asked(method, len(text), salt=rng.choice([None, None, "s"])) if n % 4 else CacheParams()
        pending[f"s-{n}"] = prompt, cache
        alone = tiny.make_engine((24, None))
        expected[f"s-{n}"] = tiny.run(alone, {"x": prompt}, GREEDY, check=False, cache=cache)["x"].tokens[0]
    got: dict[str, list[int]] = {name: [] for name in pending}
    while pending or engine.has_work:
        while pending and rng.random() < 0.5:
            name = next(iter(pending))
            prompt, cache = pending.pop(name)
            engine.submit(name, prompt, GREEDY, cache=cache)
        if engine.requests and rng.random() < 0.04:
            aborted.add(name := rng.choice(sorted(engine.requests)))
            engine.abort(name)
        if rng.random() < 0.02:
            engine.reset_cache()
        for update in engine.step():
            assert update.error is None
            got[update.request_id] += [token for delta in update.deltas for token in delta.token_ids]
            if update.finished and (left := update.metrics.compressed) is not None:
                found[update.metrics.cached_tokens == left.tokens] += 1
        engine.check()
    for name, tokens in got.items():
        assert tokens == expected[name][: len(tokens)]
        assert name in aborted or len(tokens) == COUNT
    assert min(found[True], found[False]) > 5
    assert engine.stats().cache.held_bytes == 0
