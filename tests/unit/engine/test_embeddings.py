"""Embeddings: the mean of the last hidden states, with the same bits in any company and any division into steps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tiny
from kvloom.engine.assemble import Assembly
from kvloom.engine.cache_params import CacheParams
from kvloom.engine.params import SamplingParams
from kvloom.engine.prompt_mean import PromptMean
from kvloom.errors import NumericsError, ParamsError
from kvloom.policy.compression import parse_compression

EMBED = SamplingParams(max_tokens=0, prompt_embedding=True)
PROMPT = tiny.random_prompt(71, 1)


def embedded(engine: tiny.Engine, prompt: list[int] = PROMPT, **company: list[int]) -> bytes:
    update = tiny.run(engine, {"x": prompt, **company}, EMBED)["x"].updates[-1]
    assert update.embedding is not None
    return update.embedding.tobytes()


def test_it_is_the_mean_of_the_normed_states() -> None:
    engine = tiny.make_engine(step_tokens=16)
    seen: dict[int, np.ndarray] = {}
    forward = engine.model.forward

    def watched(tokens_T, plan, attend, rows_R=None, *more):  # type: ignore[no-untyped-def]
        hidden = forward(tokens_T, plan, attend, rows_R, *more)
        seen.update(zip(plan.positions_T[rows_R].tolist(), hidden, strict=True))
        return hidden

    engine.model.forward = watched  # type: ignore[method-assign]
    found = np.frombuffer(embedded(engine), np.float32)
    states = engine.model.normed(np.stack([seen[position] for position in range(len(PROMPT))]))
    mean = states.astype(np.float64).mean(axis=0)
    np.testing.assert_allclose(found, mean / np.linalg.norm(mean), rtol=1e-5, atol=1e-6)
    assert np.linalg.norm(found) == pytest.approx(1.0, abs=1e-6)


def test_company_and_steps_change_no_bit() -> None:
    alone = embedded(tiny.make_engine())
    assert embedded(tiny.make_engine(step_tokens=7)) == alone
    others = {f"o{n}": tiny.random_prompt(30 + n, n) for n in range(5)}
    assert embedded(tiny.make_engine(step_tokens=40), **others) == alone
    engine = tiny.make_engine()
    tiny.run(engine, {"a": PROMPT}, SamplingParams(temperature=0.0, max_tokens=4))
    assert embedded(engine) == alone, "what is cached is computed again"
    assert embedded(engine, tiny.random_prompt(71, 2)) != alone


def test_the_library_returns_it() -> None:
    update = tiny.run(tiny.make_engine(), {"x": PROMPT}, EMBED)["x"].updates[-1]
    output = Assembly("x", None, 1).add(update)
    assert output.finished
    assert output.embedding is update.embedding is not None


def test_it_needs_exact_kv_and_no_answer() -> None:
    with pytest.raises(ParamsError, match="max_tokens must be 0"):
        SamplingParams(max_tokens=1, prompt_embedding=True)
    cache = CacheParams(compression=parse_compression("knorm:ratio=0.5"))
    with pytest.raises(ParamsError, match="exact KV"):
        tiny.run(tiny.make_engine(), {"x": PROMPT}, EMBED, cache=cache)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=8), st.integers(0, 2**32), st.data())
def test_parts_that_come_again_are_counted_once(sizes: list[int], seed: int, data: st.DataObject) -> None:
    """As they do after a preemption."""
    states = np.random.default_rng(seed).normal(size=(sum(sizes), 4)).astype(np.float32)
    whole, parts = PromptMean(), PromptMean()
    whole.take(0, states)
    for size in sizes:
        start = data.draw(st.integers(0, parts.count))
        parts.take(start, states[start : parts.count + size])
    parts.take(0, states)
    assert parts.unit().tobytes() == whole.unit().tobytes()


def test_what_has_no_direction_is_an_error() -> None:
    mean = PromptMean()
    mean.take(0, np.zeros((2, 3), np.float32))
    with pytest.raises(NumericsError):
        mean.unit()
