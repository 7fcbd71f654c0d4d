"""The claim about hints, on a simulated clock: who says what it comes back to gains, and times end when they should."""

from __future__ import annotations

from dataclasses import replace

import pytest

import tiny
from bench.claims.agent_hints import (
    SIDE_SESSION,
    beside_small_ones,
    config_of,
    hinted,
    ratio,
    served,
    simulated,
    without,
)
from kvloom.engine.cache_params import CacheParams
from kvloom.engine.params import SamplingParams
from kvloom.policy.cost import PrefillCost
from kvloom.server.dialect.prompt_cache import LIFETIMES_S
from kvloom.server.dialect.schemas import CompletionRequest
from kvloom.simulate.step_cost import StepCost
from kvloom.simulate.traces.made_agents import MadeAgents
from timed import Clock

COST = StepCost(PrefillCost(5e-3, 1.1e-3, 1e-7), PrefillCost(1e-2, 1e-3, 2e-7))
AGENTS = MadeAgents(tasks=2, tools_tokens=160, system_tokens=96, calls=(3, 5), questions=(1, 2), answer_tokens=8)


def test_hints_are_those_of_agents_alone_and_as_fast_as_the_trace() -> None:
    trace = beside_small_ones(AGENTS.trace(1), 1, 30, (60, 200))
    asked = hinted(trace, COST, tiny.VOCAB)
    speed = trace.requests[-1].arrival_s / asked[-1].arrival_s
    for each, request in zip(asked, trace.requests, strict=True):
        if request.session == SIDE_SESSION:
            assert (each.cache, each.resumed) == (CacheParams(priority=40), False)
        else:
            assert each.cache.session == f"agent-{request.session}"
            if request.ends == "tool_call":
                assert (each.cache.priority, each.cache.ttl_s) == (60, pytest.approx(60.0 / speed))
    assert all(each.cache == CacheParams() for each in without(asked))
    assert any(each.resumed for each in asked)


def test_the_same_trace_is_served_with_and_without() -> None:
    trace = beside_small_ones(AGENTS.trace(1), 1, 60, (200, 400))
    like = tiny.make_engine(
        model=tiny.TinyModel((None, None), context_length=4096), kv_bytes="16MB", retention="survival"
    )
    asked, config = hinted(trace, COST, tiny.VOCAB), config_of(like, trace)
    found = ratio("x", lambda: simulated(like, config, COST), asked)
    assert found >= 0.95
    (one, one_waits), (other, other_waits) = simulated(like, config, COST), simulated(like, config, COST)
    plain, again = served(one, without(asked), one_waits), served(other, without(asked), other_waits)
    assert plain.ttft_s == again.ttft_s, "nothing but hints makes a difference"
    assert 0 < plain.cached < plain.asked
    slower = replace(COST, prefill=replace(COST.prefill, token_s=2 * COST.prefill.token_s))
    assert ratio("y", lambda: simulated(like, config, slower), without(asked)) == 1.0


@pytest.mark.parametrize("ttl", [*LIFETIMES_S, "24h"])
def test_lifetimes_end_on_time(ttl: str) -> None:
    """On a simulated clock, to the second, from the last use on."""
    asked = {"prompt_cache_retention": ttl} if ttl == "24h" else {"prompt_cache_options": {"ttl": ttl}}
    body = CompletionRequest.model_validate({"prompt": "x", **asked})
    clock, seconds = Clock(), LIFETIMES_S.get(ttl, 86_400.0)
    engine = tiny.make_engine(kv_bytes=300_000, max_pinned_share=0.5, clock=clock)
    prompt, params = tiny.random_prompt(71, 1), SamplingParams(temperature=0.0, max_tokens=2)
    tiny.run(engine, {"a": prompt}, params, cache=body.cache_params())
    clock.now_s += seconds / 2
    tiny.run(engine, {"b": prompt}, params)
    for wait_s, pinned in ((seconds - 1, True), (1.0, False)):
        clock.now_s += wait_s
        assert (engine.stats().cache.pinned_bytes > 0) is pinned
