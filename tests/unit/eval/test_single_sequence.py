"""A sequence driven by hand computes what the engine computes, and compressing its context is what it says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from kvloom.arrays import Floats
from kvloom.codec import CODECS
from kvloom.engine.params import SamplingParams
from kvloom.errors import EvalError, RequestError
from kvloom.eval.single import SingleSequence
from kvloom.policy.compression import Compression, compression_of
from kvloom.policy.compression.base import LayerContext, Origin
from kvloom.policy.compression.needs import Need
from tiny import VOCAB, make_engine, random_prompt

WINDOWS = {"dense": (None, None), "hybrid": (None, 24), "all-windows": (24, 24)}


def scores(sequence: SingleSequence, tokens: list[int]) -> Floats:
    return np.concatenate(list(sequence.score(tokens)))


@pytest.mark.parametrize("windows", WINDOWS.values(), ids=WINDOWS)
def test_bits_are_those_of_the_engine(windows) -> None:
    engine, prompt = make_engine(windows), random_prompt(150, 1)
    single = scores(SingleSequence(engine, 150), prompt)
    engine.submit("a", prompt, SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=VOCAB - 1))
    update = [update for _ in range(20) if engine.has_work for update in engine.step()][-1]
    assert update.prompt_logprobs is not None
    for position, entries in list(enumerate(update.prompt_logprobs))[1:]:
        assert entries is not None
        row = single[position - 1].astype(np.float64)
        want = row - np.log(np.exp(row).sum())
        assert max(abs(entry.logprob - float(want[token])) for token, entry in entries.items()) < 1e-5
    first = update.deltas[-1].token_ids[0]
    assert first == int(single[-1].argmax())


def test_scores_do_not_depend_on_how_a_text_is_cut() -> None:
    engine, tokens = make_engine((None, 24)), random_prompt(130, 2)
    whole = scores(SingleSequence(engine, 130), tokens)
    pieces = SingleSequence(engine, 130)
    cut = [pieces.append(tokens[:50])[None], scores(pieces, tokens[50:])]
    assert np.array_equal(whole[49:], np.concatenate(cut))


@pytest.mark.parametrize("windows", WINDOWS.values(), ids=WINDOWS)
@pytest.mark.parametrize("kv_dtype", CODECS)
def test_keeping_everything_changes_nothing(windows, kv_dtype: str) -> None:
    engine, tokens = make_engine(windows, kv_dtype=kv_dtype), random_prompt(140, 3)
    exact, kept = SingleSequence(engine, 140), SingleSequence(engine, 140)
    exact.append(tokens[:100])
    kept.append(tokens[:100])
    kept.compress(compression_of("keep_all"))
    assert np.array_equal(scores(exact, tokens[100:]), scores(kept, tokens[100:]))


@pytest.mark.parametrize("reference", [False, True])
def test_a_dropped_entry_is_gone_and_the_others_are_not(reference: bool) -> None:
    """Attention over what was kept is attention over a context that never had the rest, at the same positions."""

    engine, tokens = make_engine((None,), reference=reference), random_prompt(100, 4)
    out = []
    for limits in ((64, 64), (64, 32), (32, 32)):
        sequence = SingleSequence(engine, 100)
        sequence.append(tokens[:64])
        sequence.compress(first(*limits))
        out.append(sequence.append(tokens[64:65]))
    assert not np.allclose(out[0], out[1], atol=1e-3)
    assert not np.allclose(out[1], out[2], atol=1e-3)
    window = make_engine((33,), reference=reference)  # at position 64 it sees 32 to 64: the complement
    full, part = SingleSequence(engine, 100), SingleSequence(window, 100)
    full.append(tokens[:64])
    full.compress(compression_of("sink_recent", 0.5, sinks=0))
    part.append(tokens[:64])
    assert np.allclose(full.append(tokens[64:65]), part.append(tokens[64:65]), atol=1e-4)


@dataclass(frozen=True)
class First:
    """Heads keep the positions below their limits."""

    limits: tuple[int, int]
    name: ClassVar[str] = "first"
    needs: ClassVar[frozenset[Need]] = frozenset()

    def scores(self, context: LayerContext) -> Floats:
        return np.stack([-context.positions_S] * 2).astype(np.float32)

    def kept(self, ratio: float, scores: Sequence[Floats], origin: Origin) -> list[np.ndarray]:
        return [np.array(self.limits)] * len(scores)


def first(*limits: int) -> Compression:
    return Compression(First(limits), 0.5, allocator=First(limits))


def test_what_is_dropped_frees_memory() -> None:
    engine, tokens = make_engine((None, 24)), random_prompt(200, 5)
    sequence = SingleSequence(engine, 220)
    sequence.append(tokens)
    before = sequence.held_bytes
    sequence.compress(compression_of("random", 0.75))
    assert sequence.held_bytes < 0.5 * before
    assert sequence.peak_bytes >= before + 10_000  # for a moment, both forms are there
    sequence.check()
    with pytest.raises(EvalError, match="once"):
        sequence.compress(compression_of("random", 0.5))


@pytest.mark.parametrize("windows", WINDOWS.values(), ids=WINDOWS)
def test_rewinding_forgets_all_after_the_mark(windows) -> None:
    engine, tokens = make_engine(windows), random_prompt(150, 6)
    sequence = SingleSequence(engine, 200)
    sequence.append(tokens[:75])
    sequence.mark()
    sequence.compress(compression_of("random", 0.3))
    first = scores(sequence, tokens[75:])
    sequence.rewind()
    scores(sequence, random_prompt(60, 7))
    sequence.rewind()
    assert np.array_equal(first, scores(sequence, tokens[75:]))
    sequence.check()


@pytest.mark.parametrize("shape", [(1, 40), (2, 39)])
def test_a_broken_scorer_is_refused(shape: tuple[int, int]) -> None:
    @dataclass(frozen=True)
    class Broken(First):
        def scores(self, context: LayerContext) -> Floats:
            return np.zeros(shape, np.float32)

    sequence = SingleSequence(make_engine(), 100)
    sequence.append(random_prompt(40, 8))
    with pytest.raises(RequestError, match="must score 40 entries for each of 2 heads"):
        sequence.compress(Compression(Broken((1, 1)), 0.5))
    sequence.compress(compression_of("keep_all"))  # nothing has changed


def test_more_than_the_capacity_is_refused() -> None:
    with pytest.raises(EvalError, match="do not fit a capacity of 10"):
        SingleSequence(make_engine(), 10).append(random_prompt(11, 9))
