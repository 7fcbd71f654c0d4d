"""A sequence driven by hand computes what the engine computes, and thinning out its context is what it says."""

from __future__ import annotations

import numpy as np
import pytest

from kvloom.arrays import Floats
from kvloom.codec import CODECS
from kvloom.engine.params import SamplingParams
from kvloom.errors import EvalError
from kvloom.eval.policy import Damaged, Exact, LayerContext, parse_policy
from kvloom.eval.single import SingleSequence
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
    kept.retain(Damaged(drop=0.0))
    assert np.array_equal(scores(exact, tokens[100:]), scores(kept, tokens[100:]))


@pytest.mark.parametrize("reference", [False, True])
def test_a_dropped_entry_is_gone_and_the_others_are_not(reference: bool) -> None:
    """Attention over what was kept is attention over a context that never had the rest, at the same positions."""

    engine, tokens = make_engine((None,), reference=reference), random_prompt(100, 4)
    out = []
    for limits in ((64, 64), (64, 32), (32, 32)):
        sequence = SingleSequence(engine, 100)
        sequence.append(tokens[:64])
        sequence.retain(First(limits))
        out.append(sequence.append(tokens[64:65]))
    assert not np.allclose(out[0], out[1], atol=1e-3)
    assert not np.allclose(out[1], out[2], atol=1e-3)
    window = make_engine((33,), reference=reference)  # at position 64 it sees 32 to 64: the complement
    full, part = SingleSequence(engine, 100), SingleSequence(window, 100)
    full.append(tokens[:64])
    full.retain(Last())
    part.append(tokens[:64])
    assert np.allclose(full.append(tokens[64:65]), part.append(tokens[64:65]), atol=1e-4)


class First:
    name, params = "first", {}

    def __init__(self, limits: tuple[int, int]) -> None:
        self.limits = limits

    def keep(self, context: LayerContext) -> list[np.ndarray]:
        return [np.flatnonzero(context.positions_S < limit) for limit in self.limits]


class Last:
    name, params = "last", {}

    def keep(self, context: LayerContext) -> list[np.ndarray]:
        return [np.flatnonzero(context.positions_S >= 32)] * 2


def test_what_is_dropped_frees_memory() -> None:
    engine, tokens = make_engine((None, 24)), random_prompt(200, 5)
    sequence = SingleSequence(engine, 220)
    sequence.append(tokens)
    before = sequence.held_bytes
    sequence.retain(Damaged(drop=0.75))
    assert sequence.held_bytes < 0.5 * before
    assert sequence.peak_bytes >= before + 10_000  # for a moment, both forms are there
    sequence.check()
    with pytest.raises(EvalError, match="once"):
        sequence.retain(Damaged())


@pytest.mark.parametrize("windows", WINDOWS.values(), ids=WINDOWS)
def test_rewinding_forgets_all_after_the_mark(windows) -> None:
    engine, tokens = make_engine(windows), random_prompt(150, 6)
    sequence = SingleSequence(engine, 200)
    sequence.append(tokens[:75])
    sequence.mark()
    sequence.retain(Damaged(drop=0.3))
    first = scores(sequence, tokens[75:])
    sequence.rewind()
    scores(sequence, random_prompt(60, 7))
    sequence.rewind()
    assert np.array_equal(first, scores(sequence, tokens[75:]))
    sequence.check()


def test_a_broken_policy_is_refused() -> None:
    class Broken:
        name, params = "broken", {}

        def keep(self, context: LayerContext) -> list[np.ndarray]:
            return [np.array([3, 3]), np.array([0])]

    sequence = SingleSequence(make_engine(), 100)
    sequence.append(random_prompt(40, 8))
    with pytest.raises(EvalError, match="must keep ascending indices below 32"):
        sequence.retain(Broken())


def test_more_than_the_capacity_is_refused() -> None:
    with pytest.raises(EvalError, match="do not fit a capacity of 10"):
        SingleSequence(make_engine(), 10).append(random_prompt(11, 9))


def test_policies_are_read_from_text() -> None:
    assert parse_policy("exact") == Exact()
    assert parse_policy("damaged") == Damaged()
    assert parse_policy("damaged:drop=0.25,seed=3") == Damaged(0.25, 3)
    for text, fault in {
        "nothing": "unknown policy `nothing`",
        "damaged:keep=1": "no parameter `keep`",
        "damaged:drop=much": "cannot read `much` as drop",
        "damaged:drop=2": "from 0 to 1",
    }.items():
        with pytest.raises(EvalError, match=fault):
            parse_policy(text)
