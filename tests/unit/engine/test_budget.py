"""Requests whose KV is kept within a budget of bytes: exact below it, and never above it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest

import tiny
from kvloom.attend.lists import HeadLists
from kvloom.engine.cache_params import CacheParams
from kvloom.engine.kv import SequenceKv, replacement
from kvloom.engine.params import SamplingParams
from kvloom.engine.scheduler.state import StepPlan
from kvloom.errors import KvloomError, ParamsError, RequestError
from kvloom.eval.single import SingleSequence
from kvloom.memory.cells import all_labels
from kvloom.policy.compression import Compression, compression_of
from kvloom.policy.compression.base import REQUIRED, Floats, LayerContext
from kvloom.policy.compression.critical import Critical, projected_norms
from kvloom.policy.compression.needs import Need
from kvloom.policy.compression.uniform import kept_of

MODELS = {"dense": (None, None), "hybrid": (24, None, 24)}
METHODS: dict[str, dict[str, Any]] = {
    "random": {"seed": 3},
    "sink_recent": {},
    "knorm": {"allocator": "adakv"},
    "keydiff": {"critical": 0.5, "demote": 0.5},
    "leverage": {"allocator": "pyramid", "compactor": "d2o"},
    "compactor": {"sampled": 48, "chunk": 24, "critical": 0.3, "allocator": "adakv"},
    "h2o": {"allocator": "global", "compactor": "cam", "reference": 8, "neighbours": 4},
    "tova": {"allocator": "xkv"},
    "snapkv": {"window": 20, "kernel": 3, "compactor": "keepkv", "similarity": 0.2, "reference": 8},
    "expected_attention": {"sampled": 32, "protect_first": 4},
}
FITS = 208
"""Tokens of the first block."""
PROMPT, OTHER = tiny.random_prompt(330, 1), tiny.random_prompt(70, 2)
COUNT = 90
GREEDY = SamplingParams(temperature=0.0, max_tokens=COUNT, ignore_eos=True, logprobs=1)
every_model = pytest.mark.parametrize("windows", MODELS.values(), ids=MODELS)


def within(engine: tiny.Engine, method: str = "knorm", tokens: int = FITS, **more: Any) -> CacheParams:
    budget = engine.layout.peak_bytes(tokens)
    return CacheParams(compression=compression_of(method, budget=budget, **METHODS.get(method, {})), **more)


def scored(done: tiny.Done) -> list[tuple[int, float]]:
    """Tokens and their log probabilities, to the last bit."""
    deltas = [delta for update in done.updates for delta in update.deltas]
    return [
        (token, logprobs[token].logprob)
        for delta in deltas
        for token, logprobs in zip(delta.token_ids, delta.logprobs or (), strict=True)
    ]


def ask(engine: tiny.Engine, cache: CacheParams | None = None, prompt: list[int] = PROMPT) -> tiny.Done:
    return tiny.run(engine, {"x": prompt}, GREEDY, cache=cache)["x"]


@every_model
@pytest.mark.parametrize("method", METHODS)
def test_no_step_holds_more_than_the_budget(method: str, windows: tuple[int | None, ...]) -> None:
    engine = tiny.make_engine(windows)
    cache = within(engine, method)
    engine.submit("x", PROMPT, GREEDY, cache=cache)
    told, answered = [], 0
    while engine.has_work:
        for update in engine.step():
            assert update.error is None
            answered += sum(len(delta.token_ids) for delta in update.deltas)
            told.append(update.metrics.compressed)
        engine.check()
        assert engine.held_bytes <= (cache.budget or 0)
    last = told[-1]
    assert answered == COUNT
    assert last is not None
    blocks = engine.layout.blocks_within(cache.budget or 0, 512)
    assert blocks.first <= last.tokens < len(PROMPT) + COUNT
    assert last.times == 1 + (last.tokens - blocks.first) // blocks.stride > 2
    assert 0.7 * blocks.room < last.bytes <= blocks.room
    assert last.budget == cache.budget
    assert last.ratio is None


@every_model
def test_below_the_budget_everything_is_exact(windows: tuple[int | None, ...]) -> None:
    """To the last token that has room: the same bits, and the same pages for others to find."""
    exact = scored(ask(tiny.make_engine(windows)))
    engine = tiny.make_engine(windows)
    roomy = ask(engine, within(engine, "h2o", len(PROMPT) + COUNT + 16))
    assert scored(roomy) == exact
    assert roomy.updates[-1].metrics.compressed is None
    engine = tiny.make_engine(windows)
    cache = within(engine, tokens=len(PROMPT) + 38)
    first = engine.layout.blocks_within(cache.budget or 0, 512).first - len(PROMPT)
    tight = ask(engine, cache)
    assert 16 <= first < COUNT
    assert scored(tight)[: first + 1] == exact[: first + 1]
    assert scored(tight) != exact
    again = ask(engine).updates[-1].metrics
    assert again.cached_tokens >= len(PROMPT) - 1 if windows == (None, None) else again.cached_tokens > 0


@every_model
def test_moving_without_removing_changes_nothing(
    windows: tuple[int | None, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lists of several blocks hold what pages held, and what was seen of every block is seen in its place."""
    exact = ask(tiny.make_engine(windows)).tokens
    monkeypatch.setattr(replacement, "_ratio", lambda room, candidates: 0.0)
    for method in ("knorm", "h2o"):
        engine = tiny.make_engine(windows)
        moved = ask(engine, within(engine, method))
        assert moved.tokens == exact
        compressed = moved.updates[-1].metrics.compressed
        assert compressed is not None
        assert compressed.times > 2


@dataclass(frozen=True)
class ByPlace:
    """Scores that are known for every position beforehand."""

    name: ClassVar[str] = "by_place"
    needs: ClassVar[frozenset[Need]] = frozenset()

    def scores(self, context: LayerContext) -> Floats:
        return worth(context.layer)[:, context.positions_S]


def worth(layer: int) -> Floats:
    return np.random.default_rng(layer).random((2, 512)).astype(np.float32)


def listed(kv: SequenceKv, group: int = 0) -> list[list[int]]:
    """Positions of the entries of every list."""
    (lists,) = kv.lists[group]
    assert isinstance(lists, HeadLists)
    assert lists.masks_P is not None
    positions_PS, _ = all_labels(kv.ledger.arena.memory, lists.format, lists.page_ids_P)
    there_PS = (lists.masks_P[:, None] >> np.arange(16) & 1).astype(bool)
    bounds = zip(lists.bounds_L1, lists.bounds_L1[1:], strict=False)
    return [positions_PS[a:b][there_PS[a:b]].tolist() for a, b in bounds]


def test_what_stays_is_the_best_of_what_was_left_and_what_came(monkeypatch: pytest.MonkeyPatch) -> None:
    ratios: list[float] = []
    ratio_of = replacement._ratio
    monkeypatch.setattr(replacement, "_ratio", lambda *args: ratios.append(ratio_of(*args)) or ratios[-1])
    engine = tiny.make_engine()
    budget = engine.layout.peak_bytes(FITS)
    engine.submit("x", PROMPT, GREEDY, cache=CacheParams(compression=Compression(ByPlace(), budget=budget)))
    kv = engine.requests["x"].sequences[0].kv
    stays: list[list[int]] = [[] for _ in range(4)]
    seen = 0
    while engine.has_work:
        engine.step()
        if kv.replaced > seen:
            for n, before in enumerate(stays):
                there = [*before, *range(seen, kv.replaced)]
                score = worth(n // 2)[n % 2]
                falling = sorted(there, key=lambda p: (p < kv.replaced - 64, -score[p]))
                stays[n] = sorted(falling[: kept_of(len(there), ratios[-1])])
            assert listed(kv) == stays
            seen = kv.replaced
    assert len(ratios) > 3


@dataclass(frozen=True)
class Ends(ByPlace):
    """Requires the first and the last of what it sees."""

    def scores(self, context: LayerContext) -> Floats:
        scores_KS = worth(context.layer)[:, context.positions_S].copy()
        scores_KS[:, context.positions_S < 3] = scores_KS[:, -80:] = REQUIRED
        return scores_KS


def test_what_was_last_once_is_not_required_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    ratios: list[float] = []
    ratio_of = replacement._ratio
    monkeypatch.setattr(replacement, "_ratio", lambda *args: ratios.append(ratio_of(*args)) or ratios[-1])
    engine = tiny.make_engine()
    compression = Compression(Ends(), budget=engine.layout.peak_bytes(FITS))
    engine.submit("x", PROMPT, GREEDY, cache=CacheParams(compression=compression))
    kv = engine.requests["x"].sequences[0].kv
    known: list[dict[int, float]] = [{} for _ in range(4)]
    seen = 0
    while engine.has_work:
        engine.step()
        if kv.replaced <= seen:
            continue
        for n, (worth_of, positions) in enumerate(zip(known, listed(kv), strict=True)):
            best = max((score for score in worth_of.values() if np.isfinite(score)), default=0.0)
            worth_of |= {p: best for p, score in worth_of.items() if not np.isfinite(score) and p >= 3}
            worth_of |= {
                p: np.inf if p < 3 or p >= kv.replaced - 80 else float(worth(n // 2)[n % 2][p])
                for p in range(seen, kv.replaced)
            }
            falling = sorted(worth_of, key=lambda p: (p < kv.replaced - 64 and np.isfinite(worth_of[p]), -worth_of[p]))
            stays = falling[: kept_of(len(worth_of), ratios[-1])]
            known[n] = {p: worth_of[p] for p in sorted(stays)}
            assert positions == list(known[n])
        seen = kv.replaced
    assert len(ratios) > 3
    assert all({0, 1, 2} < set(worth_of) for worth_of in known)


@dataclass(frozen=True)
class Alike:
    """Only values make a difference."""

    name: ClassVar[str] = "alike"
    needs: ClassVar[frozenset[Need]] = frozenset()

    def scores(self, context: LayerContext) -> Floats:
        return np.zeros(context.shape, np.float32)


def test_values_that_are_left_weigh_what_they_weighed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of layer 0, whose values depend on nothing that was removed: lists hold those that write most."""
    ratios: list[float] = []
    ratio_of = replacement._ratio
    monkeypatch.setattr(replacement, "_ratio", lambda *args: ratios.append(ratio_of(*args)) or ratios[-1])
    engine = tiny.make_engine()
    compression = Compression(Alike(), budget=engine.layout.peak_bytes(FITS), critical=Critical(1.0))
    engine.submit("x", PROMPT, GREEDY, cache=CacheParams(compression=compression))
    kv = engine.requests["x"].sequences[0].kv
    seen, found = [0], []
    while engine.has_work:
        engine.step()
        if kv.replaced > seen[-1]:
            seen.append(kv.replaced)
            found.append(listed(kv)[:2])
            tokens = list(kv.tokens[: kv.replaced])
    sequence = SingleSequence(tiny.make_engine(), len(tokens) + 1)
    sequence.append(tokens)
    of_layer_0 = next(sequence.contexts(Compression(Alike(), 0.5, critical=Critical(1.0))))
    assert of_layer_0.output_HDC is not None
    norms = projected_norms(list(of_layer_0.v_SKD.transpose(1, 0, 2)), of_layer_0.output_HDC)
    stays: list[list[int]] = [[], []]
    for ratio, before, stop, lists in zip(ratios, seen[:-1], seen[1:], found, strict=True):
        for head in (0, 1):
            there = [*stays[head], *range(before, stop)]
            falling = sorted(there, key=lambda p: (p < stop - 64, -norms[head][p]))
            stays[head] = sorted(falling[: kept_of(len(there), ratio)])
        assert lists == stays
    assert len(found) > 3


@every_model
@pytest.mark.parametrize("method", ["knorm", "h2o", "snapkv"])
def test_it_comes_to_the_same_however_it_is_computed(method: str, windows: tuple[int | None, ...]) -> None:
    engine = tiny.make_engine(windows)
    expected = scored(ask(engine, within(engine, method)))
    for step_tokens in (7, 64):
        engine = tiny.make_engine(windows, step_tokens=step_tokens)
        budget = CacheParams(compression=within(tiny.make_engine(windows), method).compression)
        if windows == (None, None):  # how much a window holds at most depends on the size of steps
            assert scored(ask(engine, budget)) == expected
    engine = tiny.make_engine(windows)
    cache = within(engine, method)
    ask(engine, prompt=PROMPT)  # what was found in the cache
    assert scored(ask(engine, cache)) == expected
    other = scored(ask(tiny.make_engine(windows), prompt=OTHER))
    engine = tiny.make_engine(windows)
    for name, prompt, asked in (("a", PROMPT, cache), ("b", OTHER, None), ("c", PROMPT, cache)):
        engine.submit(name, prompt, GREEDY, cache=asked)
    done = tiny.drain(engine, ["a", "b", "c"])
    assert scored(done["a"]) == scored(done["c"]) == expected
    assert scored(done["b"]) == other


@every_model
@pytest.mark.parametrize("method", ["knorm", "h2o"])
def test_who_is_preempted_comes_to_the_same(method: str, windows: tuple[int | None, ...]) -> None:
    """At any moment: before anything was compressed, between two blocks, in the middle of a compression."""
    engine = tiny.make_engine(windows)
    cache = within(engine, method)
    expected = scored(ask(engine, cache))
    for steps in (2, 6, 9, 30, 80):
        engine, plan = tiny.make_engine(windows), StepPlan(64)
        engine.submit("x", PROMPT, GREEDY, cache=cache)
        updates = [update for _ in range(steps) for update in engine.step()]
        sequence = engine.requests["x"].sequences[0]
        assert not engine.preempt.make_room(sequence, engine.scheduler.queues, plan)
        engine.check()
        done = tiny.drain(engine, ["x"])["x"]
        done.updates[:0] = updates
        assert scored(done) == expected
        assert done.updates[-1].metrics.preemptions == 1


@pytest.mark.parametrize("method", ["knorm", "h2o"])
def test_continuations_share_what_is_left_and_go_their_own_ways(method: str) -> None:
    engine = tiny.make_engine()
    params = SamplingParams(temperature=0.9, seed=5, max_tokens=COUNT, ignore_eos=True, n=3)
    cache = within(engine, method)
    together = tiny.run(engine, {"x": PROMPT}, params, cache=cache)["x"].tokens
    assert len({tuple(tokens) for tokens in together.values()}) == 3
    alone = tiny.run(tiny.make_engine(), {"x": PROMPT}, SamplingParams(**{**PLAIN, "n": 1}), cache=cache)["x"].tokens
    assert alone[0] == together[0]
    one_by_one = tiny.run(tiny.make_engine(max_seqs=1), {"x": PROMPT}, params, cache=cache)["x"].tokens
    assert one_by_one == together


PLAIN: dict[str, Any] = {"temperature": 0.9, "seed": 5, "max_tokens": COUNT, "ignore_eos": True}


def test_a_prompt_larger_than_the_memory_is_served() -> None:
    roomy = tiny.make_engine()
    cache = within(roomy, "h2o", 144)
    blocks = roomy.layout.blocks_within(cache.budget or 0, 512)
    engine = tiny.make_engine(kv_bytes=roomy.layout.bytes_for_blocks(blocks))
    assert engine.max_len < len(PROMPT)
    with pytest.raises(RequestError, match="maximum context length"):
        engine.submit("x", PROMPT, GREEDY)
    assert scored(ask(engine, cache)) == scored(ask(roomy, cache))
    assert engine.stats().preemptions == 0


@pytest.mark.parametrize("steps", range(1, 40, 3))
def test_aborting_at_any_step_gives_everything_back(steps: int) -> None:
    engine = tiny.make_engine(step_tokens=32)
    engine.submit("x", PROMPT, GREEDY, cache=within(engine, "h2o"))
    for _ in range(steps):
        engine.step()
    engine.abort("x")
    engine.check()
    assert engine.stats().cache.held_bytes == 0


class Ticking:
    """A clock that goes on whenever somebody looks."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 0.015
        return self.now


def test_others_go_on_while_it_is_decided_what_stays() -> None:
    """A compression that takes long is done in pieces: every step of another request's answer comes in time."""
    engine = tiny.make_engine((None,) * 4, clock=Ticking())
    expected = scored(ask(tiny.make_engine(windows=(None,) * 4), within(engine, "h2o")))
    engine.submit("other", OTHER, SamplingParams(temperature=0.0, max_tokens=200, ignore_eos=True))
    engine.step()
    engine.submit("x", PROMPT, GREEDY, cache=within(engine, "h2o"))
    waiting, tokens = 0, []
    kv = engine.requests["x"].sequences[0].kv
    while engine.has_work:
        updates = {update.request_id: update for update in engine.step()}
        assert "other" in updates or "other" not in engine.requests
        waiting += kv.underway is not None
        if "x" in updates:
            tokens += [t for delta in updates["x"].deltas for t in delta.token_ids]
    assert waiting > 10
    assert tokens == [token for token, _ in expected]


@pytest.mark.parametrize(
    ("compression", "more", "param"),
    [
        ({"budget": 10}, {}, "budget"),
        ({"budget": 0}, {}, "budget"),
        ({"budget": True}, {}, "budget"),
        ({"budget": 10**6, "ratio": 0.5}, {}, "budget"),
        ({}, {}, "ratio"),
        ({"budget": 10**5}, {"compress_after": 5}, "compress_after"),
        ({"budget": 10**9}, {}, "compression"),
    ],
)
def test_what_cannot_be_is_refused(compression: dict[str, Any], more: dict[str, Any], param: str) -> None:
    engine = tiny.make_engine(kv_bytes=2**17)

    def submit() -> None:
        cache = CacheParams(compression=compression_of("knorm", **compression), **more)
        engine.submit("x", PROMPT[:90], GREEDY, cache=cache)

    with pytest.raises(KvloomError) as caught:
        submit()
    assert isinstance(caught.value, RequestError)
    assert caught.value.param == param
    assert not engine.has_work


def test_a_method_that_reads_on_after_a_context_has_no_budget() -> None:
    engine = tiny.make_engine()
    with pytest.raises(RequestError, match="cannot keep a text within a budget"):
        engine.submit("x", PROMPT, GREEDY, cache=within(engine, "kvzip"))
    with pytest.raises(ParamsError, match="or a budget"):
        compression_of("kvzip")
