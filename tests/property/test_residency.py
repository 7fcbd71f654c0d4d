"""The lossless core: whatever is cached, dropped, shared, preempted or aborted, the tokens are those of a cold run."""

from __future__ import annotations

import dataclasses
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny
from kvloom.engine.cache_params import CacheParams
from kvloom.engine.params import SamplingParams
from kvloom.policy.actions import Drop
from kvloom.policy.retention import POLICIES
from subjects import SUBJECTS, Subject

DENSE = (None, None)
HYBRID = (24, None, 24)
MODELS = {"dense": DENSE, "hybrid": HYBRID, "windows-only": (20, 20), "two-windows": (12, None, 40)}
TIGHT = {DENSE: 2.0, HYBRID: 1.5}
"""Budgets that hold some of six requests, but not all that they grow to: as a multiple of what one needs alone."""
GREEDY = SamplingParams(temperature=0.0, max_tokens=6, ignore_eos=True)

every_subject = pytest.mark.parametrize("subject", SUBJECTS.values(), ids=SUBJECTS)


def cold(subject: Subject, windows: tuple[int | None, ...], prompt: list[int]) -> list[int]:
    return tiny.run(subject.make_engine(windows), {"cold": prompt}, GREEDY)["cold"].tokens[0]


@pytest.mark.parametrize("windows", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("step_tokens", [1, 7, 16, 64])
@every_subject
def test_engine_equals_the_oracle(windows: tuple[int | None, ...], step_tokens: int, subject: Subject) -> None:
    prompt = tiny.random_prompt(45, seed=step_tokens)
    engine = subject.make_engine(windows, step_tokens=step_tokens)
    assert tiny.run(engine, {"a": prompt}, GREEDY)["a"].tokens[0] == subject.oracle(windows, prompt, 6)


@pytest.mark.parametrize("windows", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("step_tokens", [1, 7, 16, 64])
def test_the_reference_equals_the_oracle(windows: tuple[int | None, ...], step_tokens: int) -> None:
    prompt = tiny.random_prompt(45, seed=step_tokens)
    engine = tiny.make_engine(windows, step_tokens=step_tokens, reference=True)
    assert tiny.run(engine, {"a": prompt}, GREEDY)["a"].tokens[0] == tiny.oracle(windows, prompt, 6)


@every_subject
@settings(max_examples=25, deadline=None)
@given(name=st.sampled_from(sorted(MODELS)), length=st.integers(20, 110), seed=st.integers(0, 10**6))
def test_dropping_any_pages_between_requests_changes_nothing(
    subject: Subject, name: str, length: int, seed: int
) -> None:
    windows, chance = MODELS[name], random.Random(seed)
    prompt, scored = tiny.random_prompt(length, seed), dataclasses.replace(GREEDY, logprobs=3)
    engine = subject.make_engine(windows)
    first = tiny.run(engine, {"first": prompt}, scored)["first"]
    stored = [entry.key for entry in engine.ledger.index.entries.values() if len(entry.tokens) == 16]
    for page in engine.ledger.droppable():
        if chance.random() < 0.4:
            engine.ledger.apply(Drop(page))
    computed = engine.stats().computed_tokens
    again = tiny.run(engine, {"again": prompt}, scored)["again"]
    assert again.tokens == first.tokens
    assert scores(again) == pytest.approx(scores(first), abs=1e-4)
    metrics = again.updates[-1].metrics
    uncached = len(prompt) - metrics.cached_tokens
    assert uncached >= 1
    assert sum(len(miss.span) for miss in metrics.misses) == uncached
    assert metrics.computed_tokens == uncached + 5, "computed tokens = uncached tokens, and one per further token"
    assert engine.stats().computed_tokens - computed == metrics.computed_tokens
    if None in windows:
        entries = engine.ledger.index.entries
        assert all(key in entries and entries[key].pages[0] is not None for key in stored), "published as before"


def scores(done: tiny.Done) -> list[float]:
    """All reported log probabilities, in order."""
    entries = [entry for update in done.updates for delta in update.deltas for entry in delta.logprobs]
    return [score.logprob for entry in entries for score in entry.values()]


@every_subject
@pytest.mark.parametrize("windows", [DENSE, HYBRID], ids=["dense", "hybrid"])
class TestHitEqualsMiss:
    """{dense, window hybrid} x {aligned, ragged tail, hole, fork, after preemption, after abort storm}."""

    def test_page_aligned(self, subject: Subject, windows: tuple[int | None, ...]) -> None:
        prompt, engine = tiny.random_prompt(96, 1), subject.make_engine(windows)
        tiny.run(engine, {"warm-up": prompt}, GREEDY)
        warm = tiny.run(engine, {"warm": prompt}, GREEDY)["warm"]
        assert warm.tokens[0] == cold(subject, windows, prompt)
        assert warm.updates[-1].metrics.cached_tokens == 95

    def test_ragged_tail(self, subject: Subject, windows: tuple[int | None, ...]) -> None:
        shared, engine = tiny.random_prompt(71, 2), subject.make_engine(windows)
        tiny.run(engine, {"warm-up": [*shared, 1, 2, 3]}, GREEDY)
        prompt = [*shared, 9, 9, 9, 9]
        warm = tiny.run(engine, {"warm": prompt}, GREEDY)["warm"]
        assert warm.tokens[0] == cold(subject, windows, prompt)
        assert warm.updates[-1].metrics.cached_tokens == 71, "the match goes on inside the last page"

    def test_hole_in_the_middle(self, subject: Subject, windows: tuple[int | None, ...]) -> None:
        prompt, engine = tiny.random_prompt(100, 3), subject.make_engine(windows)
        tiny.run(engine, {"warm-up": prompt}, GREEDY)
        for entry in list(engine.ledger.index.entries.values()):
            if 32 <= entry.position < 64:
                for page in [page for page in entry.pages if page is not None]:
                    engine.ledger.apply(Drop(page))
        warm = tiny.run(engine, {"warm": prompt}, GREEDY)["warm"]
        assert warm.tokens[0] == cold(subject, windows, prompt)
        metrics = warm.updates[-1].metrics
        assert metrics.cached_tokens >= (67 if windows == DENSE else 1)
        assert any(miss.why == "evicted" and 32 <= miss.span.start < 64 for miss in metrics.misses)

    def test_fork(self, subject: Subject, windows: tuple[int | None, ...]) -> None:
        prompt, engine = tiny.random_prompt(53, 4), subject.make_engine(windows)
        params = SamplingParams(n=4, seed=5, temperature=1.0, max_tokens=12, ignore_eos=True)
        together = tiny.run(engine, {"fork": prompt}, params)["fork"]
        assert together.updates[-1].metrics.computed_tokens == 53 + 4 * 11, "the prompt is computed once for all four"
        alone = tiny.run(subject.make_engine(windows), {"alone": prompt}, dataclasses.replace(params, n=1))["alone"]
        assert together.tokens[0] == alone.tokens[0]
        cut = tiny.run(subject.make_engine(windows, step_tokens=7, max_seqs=2), {"fork": prompt}, params)["fork"]
        assert together.tokens == cut.tokens, "the same whether children share pages at once or find them in the index"
        assert len({tuple(tokens) for tokens in together.tokens.values()}) == 4

    def test_after_preemption(self, subject: Subject, windows: tuple[int | None, ...]) -> None:
        prompts = {f"p{n}": tiny.random_prompt(60, 10 + n) for n in range(6)}
        longer = SamplingParams(temperature=0.0, max_tokens=40, ignore_eos=True)
        engine = subject.make_engine(windows, kv_bytes=int(TIGHT[windows] * subject.bytes_for(windows, 100)))
        done = tiny.run(engine, prompts, longer)
        assert engine.stats().preemptions > 0
        assert any(d.updates[-1].metrics.preemptions for d in done.values())
        for name, prompt in prompts.items():
            assert done[name].tokens[0] == tiny.run(subject.make_engine(windows), {"x": prompt}, longer)["x"].tokens[0]
        warm = tiny.run(engine, {"warm": prompts["p5"]}, GREEDY)["warm"]
        assert warm.tokens[0] == cold(subject, windows, prompts["p5"])
        assert warm.updates[-1].metrics.cached_tokens > 0

    def test_after_an_abort_storm(self, subject: Subject, windows: tuple[int | None, ...]) -> None:
        chance, engine = (
            random.Random(0),
            subject.make_engine(windows, kv_bytes=2 * subject.bytes_for(windows, 100), step_tokens=32),
        )
        base = tiny.random_prompt(64, 20)
        for n in range(40):
            engine.submit(f"s{n}", base[: chance.randrange(20, 64)] + tiny.random_prompt(20, n), GREEDY)
            for _ in range(chance.randrange(3)):
                engine.step()
            if live := sorted(engine.requests):
                engine.abort(chance.choice(live))
            engine.check()
        for name in sorted(engine.requests):
            engine.abort(name)
        engine.check()
        assert engine.stats().cache.held_pages == 0
        tiny.run(engine, {"warm-up": base}, GREEDY)
        warm = tiny.run(engine, {"warm": base}, GREEDY)["warm"]
        assert warm.tokens[0] == cold(subject, windows, base)
        assert warm.updates[-1].metrics.cached_tokens == 63


@pytest.mark.parametrize("retention", sorted(POLICIES))
@pytest.mark.parametrize("windows", [DENSE, HYBRID], ids=["dense", "hybrid"])
@every_subject
def test_conversations_in_little_memory(subject: Subject, windows: tuple[int | None, ...], retention: str) -> None:
    """Whatever a policy evicts, every turn is answered as without a cache, and the policy makes no mistake."""
    engine = subject.make_engine(windows, kv_bytes=subject.bytes_for(windows, 180), retention=retention)
    chance, shared, cached = random.Random(1), tiny.random_prompt(36, 30), 0
    talks = {f"t{n}": [*shared, *tiny.random_prompt(60, 40 + n)] for n in range(5)}
    for turn in range(12):
        name = chance.choice(sorted(talks))
        cache = CacheParams(
            priority=chance.choice([50, 50, 20]),
            ttl_s=chance.choice([None, 0.0, 60.0]),
            pin_s=chance.choice([None, 0.1]),
        )
        done = tiny.run(engine, {f"{name}-{turn}": talks[name]}, GREEDY, cache=cache)[f"{name}-{turn}"]
        assert done.tokens[0] == cold(subject, windows, talks[name])
        cached += done.updates[-1].metrics.cached_tokens
        talks[name] = [*talks[name], *done.tokens[0], *tiny.random_prompt(8, 100 + turn)]
    assert cached
    assert engine.ledger.evicted_pages
    assert engine.ledger.events.faults == engine.ledger._slab_victims.events.faults == 0


@every_subject
@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    name=st.sampled_from(["dense", "hybrid", "two-windows"]),
    tight=st.booleans(),
    retention=st.sampled_from(sorted(POLICIES)),
)
def test_random_life(subject: Subject, seed: int, name: str, tight: bool, retention: str) -> None:
    """Random requests, forks, aborts, resets and drops; the ledger adds up after every step, and answers are right."""
    windows, chance = MODELS[name], random.Random(seed)
    kv_bytes, step_tokens = subject.bytes_for(windows, 120) if tight else "2MiB", chance.choice([8, 24, 64])
    engine = subject.make_engine(windows, kv_bytes=kv_bytes, step_tokens=step_tokens, retention=retention)
    base, expected, got = tiny.random_prompt(90, seed), {}, {}
    for n in range(14):
        prompt = base[: chance.randrange(1, 90)] + tiny.random_prompt(chance.randrange(0, 12), n)
        salt, read, write = (
            chance.choice(kinds) for kinds in ([None, None, "tenant"], [True, True, False], [True, True, False])
        )
        cache = CacheParams(salt=salt, read=read, write=write)
        engine.submit(f"r{n}", prompt, SamplingParams(temperature=0.0, max_tokens=5, ignore_eos=True), cache=cache)
        expected[f"r{n}"] = prompt
        for _ in range(chance.randrange(4)):
            _collect(engine, got)
        if chance.random() < 0.2 and engine.requests:
            victim = chance.choice(sorted(engine.requests))
            engine.abort(victim)
            expected.pop(victim, None)
        if chance.random() < 0.1:
            engine.reset_cache()
        for page in engine.ledger.droppable():
            if chance.random() < 0.1:
                engine.ledger.apply(Drop(page))
        engine.check()
    while engine.has_work:
        _collect(engine, got)
        engine.check()
    assert engine.stats().cache.held_pages == 0
    for request_id in chance.sample(sorted(expected), min(4, len(expected))):
        assert got[request_id] == subject.oracle(windows, expected[request_id], 5)


def _collect(engine: tiny.Engine, into: dict[str, list[int]]) -> None:
    for update in engine.step():
        assert update.error is None
        for delta in update.deltas:
            into.setdefault(update.request_id, []).extend(delta.token_ids)
