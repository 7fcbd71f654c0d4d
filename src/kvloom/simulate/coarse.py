"""Coarser simulation: one token, and one step, stand for ``grain`` of them.

Long traces of large models have a hundred million tokens, and the engine's own code takes some microseconds for each.
Where a token stands for many, everything that is counted in tokens is smaller by that factor, everything that a token
costs larger, and the same engine runs on the same trace in so much less time. What is lost: pages, answers and steps
are known no more exactly than that. While answers stream, a first token is late by up to ``grain`` steps; and a text
that goes on differently shares no page that it ends in, which is a larger one.
"""

from __future__ import annotations

from dataclasses import replace

from kvloom.model.kv_map import KvMap
from kvloom.policy.cost import PrefillCost
from kvloom.policy.tier_cost import TierCost
from kvloom.simulate.model import Shape
from kvloom.simulate.step_cost import StepCost


def coarse_shape(shape: Shape, grain: int) -> Shape:
    """A token of it takes the bytes of ``grain`` tokens."""
    layers = [
        replace(
            kv,
            heads=kv.heads * grain,
            window=None if kv.window is None else max(1, kv.window // grain),
        )
        for kv in shape.kv_map.layers
    ]
    return replace(shape, kv_map=KvMap(tuple(layers)), context_length=shape.context_length // grain)


def coarse_cost(cost: StepCost, step_tokens: int, grain: int) -> StepCost:
    """A token of it takes the time of ``grain`` tokens, one after another, and so does a step. ``step_tokens``: rows of
    a step, of this simulation as of the real engine.
    """
    return StepCost(_coarse(cost.prefill, grain), _coarse(cost.decode, grain), grain, step_tokens)


def coarse_tier_cost(cost: TierCost, grain: int) -> TierCost:
    """A page of it, which has the bytes of ``grain`` pages, takes their time."""
    return replace(cost, latency_s=cost.latency_s * grain)


def _coarse(cost: PrefillCost, grain: int) -> PrefillCost:
    """Token n stands for those at the positions ``grain n`` to ``grain n + grain - 1``.

    >>> cost = PrefillCost(1.0, 1e-3, 1e-5)
    >>> fine, coarse = cost.step(8, sum(range(40, 48))), _coarse(cost, 4).step(2, 10 + 11)
    >>> round(fine, 9) == round(coarse, 9)
    True
    """
    token_s = cost.block(0, grain)
    return PrefillCost(cost.start_s, token_s, cost.position_s * grain**2)
