"""A context that was watched once serves many methods: each chooses what it would have, and nothing is redone."""

from __future__ import annotations

import dataclasses

import pytest

import tiny
from kvloom.engine.cache_params import CacheParams
from kvloom.engine.engine import Engine
from kvloom.engine.kv import Seen, together
from kvloom.engine.params import SamplingParams
from kvloom.eval.single import SingleSequence
from kvloom.policy.compression import Compression, compression_of
from kvloom.policy.compression.needs import Attention, Every, Hidden, Last, LearnedMaps, Queries, Repeated, Spread

CONTEXT = 150
PROMPT = tiny.random_prompt(CONTEXT + 9, 4)
WINDOWS = {"dense": (None, None), "hybrid": (24, None, 24)}
WORDS = (
    ("knorm", {}),
    ("h2o", {}),
    ("tova", {}),
    ("snapkv", {"window": 20, "allocator": "adakv"}),
    ("snapkv", {"window": 7, "critical": 0.5}),
    ("observed_attention", {"allocator": "global"}),
    ("expected_attention", {"sampled": 32}),
    ("compactor", {"chunk": 30}),
    ("kvzip", {"chunk": 64, "allocator": "global"}),
    ("kvzip", {"chunk": 64, "demote": 0.5}),
    ("snapkv", {"window": 20, "compactor": "keepkv"}),
)
METHODS = [compression_of(name, 0.6, **words) for name, words in WORDS]


def answered(engine: Engine, compression: Compression) -> tuple[list[int], int, tuple[tuple[int, ...], ...]]:
    """(tokens, rows computed, entries kept)."""
    before = engine.commit.computed_tokens
    tiny.forget_results(engine)
    params = SamplingParams(temperature=0.0, max_tokens=4, ignore_eos=True)
    engine.submit("a", PROMPT, params, cache=CacheParams(compression=compression, compress_after=CONTEXT))
    tokens, metrics = [], None
    while engine.has_work:
        for update in engine.step():
            assert update.error is None
            tokens += [token for delta in update.deltas for token in delta.token_ids]
            metrics = update.metrics or metrics
    assert metrics is not None
    return tokens, engine.commit.computed_tokens - before, metrics.compressed.kept


@pytest.mark.parametrize("windows", WINDOWS.values(), ids=WINDOWS)
def test_what_was_seen_once_is_what_each_would_have_seen(windows) -> None:
    engine = tiny.make_engine(windows)
    alone = [answered(engine, each) for each in METHODS]
    watch = SingleSequence(engine, 3 * CONTEXT).watch_for(METHODS, PROMPT[:CONTEXT])
    engine.intake.seen[tuple(PROMPT[:CONTEXT])] = watch
    for compression, (tokens, rows, kept) in zip(METHODS, alone, strict=True):
        found, computed, left = answered(engine, compression)
        assert (found, left) == (tokens, kept)
        assert computed <= min(rows, 9 + 4 + CONTEXT % 16)
    engine.check()


def test_what_the_model_said_once_is_what_it_would_say_again() -> None:
    engine, method = tiny.make_engine((24, None, 24)), compression_of("laq", 0.6, ahead=5)
    alone = answered(engine, method)
    watch = SingleSequence(engine, 3 * CONTEXT).watch_for([method, compression_of("kvzip", 0.5)], PROMPT[:CONTEXT])
    engine.intake.seen[tuple(PROMPT[:CONTEXT])] = watch
    tokens, rows, kept = answered(engine, method)
    assert (tokens, kept) == (alone[0], alone[2])
    assert rows < alone[1] - CONTEXT


def test_what_was_not_seen_is_watched_as_ever() -> None:
    engine, context, wanted = tiny.make_engine((None, None)), PROMPT[:CONTEXT], METHODS[8]
    answered(engine, wanted)
    alone, other = answered(engine, wanted), compression_of("snapkv", 0.6, window=5)
    engine.intake.seen[tuple(context)] = SingleSequence(engine, 3 * CONTEXT).watch_for([other], context)
    assert answered(engine, wanted) == alone
    assert alone[1] > CONTEXT


def digest(weights: str) -> LearnedMaps:
    return LearnedMaps({}, {})


def other_digest(weights: str) -> LearnedMaps:
    return LearnedMaps({}, {})


@dataclasses.dataclass(frozen=True)
class Owner:
    number: int

    def digest_for(self, weights: str) -> LearnedMaps:
        return LearnedMaps({}, {})


def test_one_pass_has_one_digest_and_one_repetition() -> None:
    first = frozenset({Attention(Repeated(64), "max"), Attention(Last(3)), Hidden(digest)})
    second = frozenset({Attention(Repeated(32), "max"), Attention(Every()), Queries(Spread(32)), Hidden(other_digest)})
    assert together([first, second]) == first | {Attention(Every()), Queries(Spread(32))}
    assert together([frozenset({Hidden(Owner(1).digest_for)}), frozenset({Hidden(Owner(1).digest_for)})])
    watch = SingleSequence(tiny.make_engine((None, None)), 300).watch_for([METHODS[1]], PROMPT[:CONTEXT])
    assert Seen.of_what(watch, METHODS[1].needs) is not None
    assert Seen.of_what(watch, METHODS[2].needs) is None


@pytest.mark.parametrize("method", [METHODS[0], METHODS[8]], ids=["cached", "repeated"])
def test_looking_twice_counts_once(method: Compression) -> None:
    sequence = SingleSequence(tiny.make_engine((None, None)), 3 * CONTEXT)
    sequence.watch(method, PROMPT[:CONTEXT])
    sequence.append(PROMPT[:CONTEXT])
    first, second = ([method.scores(each).tolist() for each in sequence.contexts(method)] for _ in range(2))
    assert first == second
    sequence.compress(method)
