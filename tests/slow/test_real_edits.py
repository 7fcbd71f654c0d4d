"""Edits and forks on a real model, through the library."""

from __future__ import annotations

import pytest

from bench.drive import ModelEngines
from bench.edited import OPEN, Context, answered, context, forks_of, without_tool
from kvloom.engine.cache_params import CacheParams
from kvloom.engine.engine import Engine
from kvloom.engine.shadow import kl_divergence
from kvloom.policy.fusion import parse_fusion

NOT_KEPT = CacheParams(write=False)


@pytest.fixture(scope="module")
def edited(smollm2: ModelEngines) -> tuple[Engine, Context]:
    engine, it = smollm2.make("256MiB"), context(smollm2, 500, 120, 3)
    engine.intake.worth = lambda cache, prompt_tokens: True
    answered(engine, it.tokens, 1, CacheParams())
    return engine, it


def kl(smollm2: ModelEngines, edited: tuple[Engine, Context], text: str) -> float:
    engine, it = edited
    edit = without_tool(smollm2, it, OPEN)
    exact = answered(engine, edit.tokens, 12, NOT_KEPT)
    reused = answered(engine, edit.tokens, 12, edit.reusing(parse_fusion(text), NOT_KEPT), exact.tokens)
    assert reused.metrics.fused is not None
    kls = [kl_divergence(*pair) for pair in zip(exact.logits, reused.logits, strict=True)]
    return sum(kls) / len(kls)


def test_what_follows_an_edit_says_nearly_the_same(smollm2: ModelEngines, edited: tuple[Engine, Context]) -> None:
    unrepaired = kl(smollm2, edited, "reuse")
    assert 0 < unrepaired < 0.05
    assert kl(smollm2, edited, "fusionrag:ratio=0.3") < 0.05
    assert kl(smollm2, edited, "recompute") < 5e-3  # sums in another order, over activations in 8 bits


def test_exact_mode_says_what_a_new_prefill_says(smollm2: ModelEngines, edited: tuple[Engine, Context]) -> None:
    engine, it = edited
    edit = without_tool(smollm2, it, it.questions[0])
    cold = answered(engine, edit.tokens, 6, CacheParams(read=False, write=False))
    exact = answered(engine, edit.tokens, 6, NOT_KEPT)
    assert exact.metrics.cached_tokens >= it.tool[0]
    assert exact.tokens == cold.tokens
    assert all((one == other).all() for one, other in zip(exact.logits, cold.logits, strict=True))


def test_a_fork_reuses_the_whole_history(smollm2: ModelEngines, edited: tuple[Engine, Context]) -> None:
    engine, it = edited
    fork = forks_of(smollm2, it, 2)[1]
    cache = fork.reusing(parse_fusion("reuse"), NOT_KEPT)
    reused = answered(engine, fork.tokens, 4, cache)
    assert reused.metrics.fused is not None
    assert reused.metrics.fused.found > 500
    assert reused.metrics.computed_tokens < 80
    engine.check()
