"""Guarded requests: what compression does to their answers is measured, and undone when it is too much."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny
from kvloom.arrays import Floats
from kvloom.engine import shadow
from kvloom.engine.cache_params import CacheParams, Guard
from kvloom.engine.outputs import GuardReport
from kvloom.engine.params import SamplingParams
from kvloom.engine.scheduler import StepPlan
from kvloom.errors import InternalError, ParamsError
from kvloom.eval.single import SingleSequence
from kvloom.policy.compression import Compression, compression_of
from subjects import SUBJECTS, Subject

MODELS = {"dense": (None, None), "hybrid": (24, None, 24), "windows-only": (20, 20)}
METHODS = {
    "random": compression_of("random", 0.8, seed=3),
    "h2o": compression_of("h2o", 0.6, allocator="adakv"),
    "kvzip": compression_of("kvzip", 0.6, chunk=40, allocator="global"),
    "keepkv": compression_of("knorm", 0.6, compactor="keepkv", similarity=0.2, reference=8),
}
KEEP_ALL = compression_of("keep_all")
CONTEXT, COUNT, EVERY = 90, 20, 3
PROMPT, OTHER = tiny.random_prompt(CONTEXT + 13, 1), tiny.random_prompt(70, 2)
GREEDY = SamplingParams(temperature=0.0, max_tokens=COUNT, ignore_eos=True, logprobs=1)
SAMPLED = dataclasses.replace(GREEDY, temperature=0.9, seed=4)
NEVER, AT_ONCE = 1e9, 0.0
every_model = pytest.mark.parametrize("windows", MODELS.values(), ids=MODELS)
every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
every_subject = pytest.mark.parametrize("subject", SUBJECTS.values(), ids=SUBJECTS)
one_order = {name: each for name, each in SUBJECTS.items() if "by head" not in name}
"""Those that read dense pages and lists of all entries in the same order, so that the sums have the same bits."""


def guarded(method: Compression, drift: float, every: int = EVERY, **more: Any) -> CacheParams:
    guard = Guard(every=every, drift=drift)
    return CacheParams(compression=method, compress_after=CONTEXT, guard=guard, **more)


def unguarded(method: Compression) -> CacheParams:
    return CacheParams(compression=method, compress_after=CONTEXT)


def ask(
    engine: tiny.Engine,
    cache: CacheParams | None = None,
    prompt: list[int] = PROMPT,
    params: SamplingParams = GREEDY,
) -> tiny.Done:
    return tiny.run(engine, {"x": prompt}, params, cache=cache)["x"]


def scored(done: tiny.Done) -> list[tuple[int, float]]:
    """Tokens and their log probabilities, to the last bit."""
    deltas = [delta for update in done.updates for delta in update.deltas]
    return [(t, s[t].logprob) for d in deltas for t, s in zip(d.token_ids, d.logprobs or (), strict=True)]


def seen(done: tiny.Done) -> GuardReport:
    report = done.updates[-1].metrics.guard
    assert isinstance(report, GuardReport)
    return report


def forced(engine: tiny.Engine, method: Compression | None, answer: list[int]) -> list[Floats]:
    """Logits before each token of an answer, one sequence driven by hand."""
    sequence = SingleSequence(engine, len(PROMPT) + 150)
    if method is not None:
        sequence.watch(method, PROMPT[:CONTEXT])
    sequence.append(PROMPT[:CONTEXT])
    if method is not None:
        sequence.compress(method)
    logits = [sequence.append(PROMPT[CONTEXT:])]
    return logits + [sequence.append([token]) for token in answer[:-1]]


def divergences(exact: list[Floats], less: list[Floats]) -> list[float]:
    """The oracle: torch's."""

    def log_softmax(logits_V: Floats) -> torch.Tensor:
        return torch.from_numpy(logits_V).double().log_softmax(-1)

    return [
        torch.nn.functional.kl_div(log_softmax(b), log_softmax(a), log_target=True, reduction="sum").item()
        for a, b in zip(exact, less, strict=True)
    ]


@pytest.mark.parametrize(("field", "value"), [("every", v) for v in (0, -1, 1.0, True, None)])
def test_a_guard_looks_every_few_tokens(field: str, value: Any) -> None:
    with pytest.raises(ParamsError, match=field) as caught:
        Guard(**{field: value})
    assert caught.value.param == "guard.every"


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf"), "1", True, None])
def test_a_drift_is_a_number_of_nats(value: Any) -> None:
    with pytest.raises(ParamsError, match="drift") as caught:
        Guard(drift=value)
    assert caught.value.param == "guard.drift"


@pytest.mark.parametrize(
    ("cache", "words"),
    [
        ({"guard": {"every": 8}}, "must be a Guard"),
        ({"guard": Guard()}, "there is none"),
        ({"guard": Guard(), "compression": compression_of("knorm", budget=100_000)}, "has no room"),
        ({"guard": Guard(), "compression": compression_of("knorm", 0.5), "compress_when": "pressure"}, "no room"),
    ],
)
def test_what_cannot_be_guarded_is_refused(cache: dict[str, Any], words: str) -> None:
    with pytest.raises(ParamsError, match=words) as caught:
        CacheParams(**cache)
    assert caught.value.param == "guard"


def test_one_answer_is_guarded() -> None:
    engine = tiny.make_engine()
    with pytest.raises(ParamsError, match="one answer") as caught:
        engine.submit("x", PROMPT, SamplingParams(n=2, temperature=1.0), cache=guarded(KEEP_ALL, NEVER))
    assert caught.value.param == "n"


def test_where_nothing_is_compressed_nothing_is_guarded() -> None:
    done = ask(tiny.make_engine(), CacheParams(compression=METHODS["random"], guard=Guard()), prompt=[5])
    assert done.updates[-1].metrics.guard is None
    assert scored(done) == scored(ask(tiny.make_engine(), prompt=[5]))


@every_subject
@every_model
@every_method
def test_what_is_measured(subject: Subject, windows: tuple[int | None, ...], method: Compression) -> None:
    engine = subject.make_engine(windows)
    done = ask(engine, guarded(method, NEVER), params=SAMPLED)
    exact, less = (forced(engine, each, done.tokens[0]) for each in (None, method))
    expected = divergences(exact[::EVERY], less[::EVERY])
    report = seen(done)
    assert (report.checks, report.restored_at, report.lost_at) == (len(expected), None, None)
    assert report.mean_kl == pytest.approx(sum(expected) / len(expected), rel=1e-9, abs=1e-12)
    assert report.max_kl == pytest.approx(max(expected), rel=1e-9, abs=1e-12)
    pairs = zip(exact[::EVERY], less[::EVERY], strict=True)
    assert report.agreed == sum(int(a.argmax() == b.argmax()) for a, b in pairs)
    assert report.bytes > 0
    stats = engine.stats().guard
    assert (stats.checks, stats.restored, stats.lost) == (report.checks, 0, 0)


@every_subject
@every_model
@every_method
def test_who_never_goes_back_answers_as_if_unguarded(
    subject: Subject, windows: tuple[int | None, ...], method: Compression
) -> None:
    without = ask(subject.make_engine(windows), unguarded(method), params=SAMPLED)
    engine = subject.make_engine(windows, step_tokens=7)
    assert scored(ask(engine, guarded(method, NEVER), params=SAMPLED)) == scored(without)
    assert without.updates[-1].metrics.guard is None


@pytest.mark.parametrize("subject", one_order.values(), ids=one_order)
@every_model
def test_who_loses_nothing_has_not_drifted(subject: Subject, windows: tuple[int | None, ...]) -> None:
    done = ask(subject.make_engine(windows), guarded(KEEP_ALL, AT_ONCE, every=1), params=SAMPLED)
    report = seen(done)
    assert (report.checks, report.agreed, report.max_kl, report.restored_at) == (COUNT, COUNT, 0.0, None)
    assert scored(done) == scored(ask(subject.make_engine(windows), params=SAMPLED))


@every_subject
@every_model
@every_method
def test_without_tolerance_the_answer_is_the_exact_one(
    subject: Subject, windows: tuple[int | None, ...], method: Compression
) -> None:
    """From the first token on, in small steps and in large ones."""
    expected = scored(ask(subject.make_engine(windows), params=SAMPLED))
    for step_tokens in (1, 64):
        engine = subject.make_engine(windows, step_tokens=step_tokens)
        done = ask(engine, guarded(method, AT_ONCE), params=SAMPLED)
        assert (seen(done).checks, seen(done).restored_at) == (1, 0)
        assert scored(done) == expected
        assert engine.stats().guard.restored == 1


@every_subject
@every_model
def test_from_where_it_goes_back_the_answer_goes_on_exactly(subject: Subject, windows: tuple[int | None, ...]) -> None:
    for seed in range(30):  # until one drifts further than it did at first
        method = compression_of("random", 0.8, seed=seed)
        free = ask(subject.make_engine(windows), guarded(method, NEVER))
        exact, less = (forced(subject.make_engine(windows), each, free.tokens[0]) for each in (None, method))
        found = divergences(exact[::EVERY], less[::EVERY])
        means = [sum(found[: n + 1]) / (n + 1) for n in range(len(found))]
        drift = means[0] * 1.000001
        beyond = [n for n, mean in enumerate(means) if mean > drift]
        if beyond:
            break
    first = beyond[0] * EVERY
    done = ask(subject.make_engine(windows), guarded(method, drift))
    report = seen(done)
    assert (report.restored_at, report.checks) == (first, first // EVERY + 1)
    assert report.mean_kl > drift
    before = scored(free)[:first]
    assert scored(done)[:first] == before
    longer, left = [*PROMPT, *(token for token, _ in before)], dataclasses.replace(GREEDY, max_tokens=COUNT - first)
    assert scored(done)[first:] == scored(ask(subject.make_engine(windows), prompt=longer, params=left))


@every_subject
@every_model
def test_company_changes_no_bit(subject: Subject, windows: tuple[int | None, ...]) -> None:
    asked: dict[str, tuple[list[int], CacheParams | None]] = {"exact": (PROMPT, None), "other": (OTHER, None)}
    for name, method in METHODS.items():
        asked |= {f"{name}-{drift}": (PROMPT, guarded(method, drift, every=2)) for drift in (AT_ONCE, 0.3, NEVER)}
        asked[name] = PROMPT, unguarded(method)
    alone, reports = {}, {}
    for name, (prompt, cache) in asked.items():
        done = ask(subject.make_engine(windows), cache, prompt)
        alone[name], reports[name] = scored(done), done.updates[-1].metrics.guard
    engine = subject.make_engine(windows, step_tokens=32)
    for _ in range(2):  # computed, and found
        for name, (prompt, cache) in asked.items():
            engine.submit(name, prompt, GREEDY, cache=cache)
        together = tiny.drain(engine, list(asked))
        assert {name: scored(done) for name, done in together.items()} == alone
        for name, done in together.items():
            report = done.updates[-1].metrics.guard
            assert report is None or dataclasses.replace(report, bytes=0) == dataclasses.replace(reports[name], bytes=0)


@every_model
def test_what_exact_kv_was_computed_is_found(windows: tuple[int | None, ...]) -> None:
    engine = tiny.make_engine(windows)
    for drift in (NEVER, AT_ONCE):
        done = ask(engine, guarded(METHODS["random"], drift))
        longer = [*PROMPT, *done.tokens[0]]
        exact = ask(engine, prompt=longer)
        assert exact.updates[-1].metrics.cached_tokens > len(PROMPT)
        assert scored(exact) == scored(ask(tiny.make_engine(windows), prompt=longer))


def test_who_does_not_write_is_found_by_nobody() -> None:
    engine = tiny.make_engine()
    for drift in (NEVER, AT_ONCE):
        ask(engine, guarded(METHODS["random"], drift, write=False))
        assert not engine.ledger.index.entries


@every_model
@pytest.mark.parametrize("drift", [AT_ONCE, 0.3, NEVER])
def test_who_is_preempted_comes_to_the_same(windows: tuple[int | None, ...], drift: float) -> None:
    """At any moment; no check is made twice."""
    expected = ask(tiny.make_engine(windows), guarded(METHODS["random"], drift))
    for steps in range(1, COUNT + 8):
        engine = tiny.make_engine(windows, step_tokens=40)
        engine.submit("x", PROMPT, GREEDY, cache=guarded(METHODS["random"], drift))
        updates = [update for _ in range(steps) if engine.has_work for update in engine.step()]
        if not engine.has_work:
            break
        engine.preempt._preempt(engine.requests["x"].sequences[0], engine.scheduler.queues, StepPlan(40))
        engine.check()
        assert engine.stats().cache.held_pages == 0
        done = tiny.drain(engine, ["x"])["x"]
        done.updates[:0] = updates
        assert scored(done) == scored(expected)
        assert dataclasses.replace(seen(done), bytes=0) == dataclasses.replace(seen(expected), bytes=0)
    assert steps > COUNT


@every_model
@pytest.mark.parametrize("drift", [AT_ONCE, NEVER])
def test_who_is_aborted_leaves_nothing(windows: tuple[int | None, ...], drift: float) -> None:
    for steps in range(1, 14):
        engine = tiny.make_engine(windows, step_tokens=16)
        engine.submit("x", PROMPT, GREEDY, cache=guarded(METHODS["kvzip"], drift))
        for _ in range(steps):
            engine.step()
            engine.check()
        engine.abort("x")
        engine.check()
        assert engine.stats().cache.held_bytes == 0


def test_a_failed_comparison_ends_the_one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(exact_V: Floats, other_V: Floats) -> float:
        raise ZeroDivisionError("no comparison today")

    expected = scored(ask(tiny.make_engine()))
    monkeypatch.setattr(shadow, "kl_divergence", failing)
    engine = tiny.make_engine()
    engine.submit("x", PROMPT, GREEDY, cache=guarded(METHODS["random"], NEVER))
    engine.submit("exact", PROMPT, GREEDY)
    done = tiny.drain(engine, ["x", "exact"])
    assert isinstance(done["x"].updates[-1].error, InternalError)
    assert scored(done["exact"]) == expected
    assert engine.stats().cache.held_bytes == 0


def test_exact_kv_is_the_first_to_give_way() -> None:
    """Before anybody is preempted; the request goes on compressed, and its answer is as if it were unguarded."""
    prompt = tiny.random_prompt(400, 5)
    params = SamplingParams(temperature=0.0, max_tokens=40, ignore_eos=True, logprobs=1)
    need = tiny.make_engine().layout.bytes_for(410)
    engine = tiny.make_engine(kv_bytes=need + 10_000)
    compression = compression_of("random", 0.5, seed=1)
    cache = CacheParams(compression=compression, compress_after=380, guard=Guard(every=10, drift=NEVER))
    done = ask(engine, cache, prompt, params)
    assert seen(done).lost_at is not None
    assert engine.stats().guard.lost == 1
    assert engine.stats().preemptions == 0
    expected = ask(tiny.make_engine(), dataclasses.replace(cache, guard=None), prompt, params)
    assert scored(done) == scored(expected)


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6), name=st.sampled_from(sorted(MODELS)), tight=st.booleans())
def test_any_mix(seed: int, name: str, tight: bool) -> None:
    """Answers are those of a cold run in plenty of memory, wherever no exact KV had to be given up; all adds up."""
    windows, chance = MODELS[name], random.Random(seed)
    engine = tiny.make_engine(
        windows, kv_bytes=340_000 if tight else "4MiB", step_tokens=chance.choice([4, 24, 64]), max_seqs=5
    )
    asked: dict[str, tuple[list[int], CacheParams | None]] = {}
    for n in range(7):
        method = chance.choice(list(METHODS.values()))
        kinds = [None, unguarded(method), *(guarded(method, d, chance.choice([1, 4])) for d in (AT_ONCE, 0.3, NEVER))]
        prompt = [*tiny.random_prompt(64, n % 2), *tiny.random_prompt(chance.randrange(30, 60), n)]
        asked[f"r{n}"] = prompt, chance.choice(kinds)
        engine.submit(f"r{n}", prompt, GREEDY, cache=asked[f"r{n}"][1])
        for _ in range(chance.randrange(0, 6)):
            engine.step()
            engine.check()
    for each, done in tiny.drain(engine, list(engine.requests)).items():
        assert done.updates[-1].error is None
        prompt, cache = asked[each]
        report = done.updates[-1].metrics.guard
        if report is None or report.lost_at is None or (cache and cache.guard and cache.guard.drift == NEVER):
            got = scored(done)
            assert got == scored(ask(tiny.make_engine(windows), cache, prompt))[-len(got) :]
    assert engine.stats().cache.held_pages == 0
