"""What a step computes, as far as its duration says something about costs."""

from __future__ import annotations

import math
from dataclasses import dataclass

from kvloom.engine.scheduler.state import Chunk, StepPlan
from kvloom.policy.cost import position_sum


@dataclass(frozen=True, slots=True)
class Computed:
    """Answers that a step goes on with; tokens of prompts, and the sum of their positions. Through a share of the
    layers, both count as that share.

    ``plain``: whether these cost what prefill does. They do not where all rows have logits, what is watched, what comes
    after a context that was compressed, and what goes through some of the layers.
    """

    streams: int
    new: int
    positions: int
    plain: bool


def computed(plan: StepPlan) -> Computed | None:
    """None if the step does anything else beside that. A single token is an answer's."""
    if plan.shadows or plan.compressing:
        return None
    prompts = [chunk for chunk in plan.chunks.values() if len(chunk.spans) > 1]
    spans, passes = [chunk.spans for chunk in prompts], plan.passes.values()
    return Computed(
        streams=len(plan.chunks) - len(prompts),
        new=sum(map(len, spans)) + math.ceil(sum(len(each.spans) * each.share for each in passes)),
        positions=sum(map(position_sum, spans)) + round(sum(position_sum(each.spans) * each.share for each in passes)),
        plain=not passes and all(map(_plain, prompts)),
    )


def _plain(chunk: Chunk) -> bool:
    kv = chunk.kv
    return not (chunk.wants_prompt_scores or kv.watch is not None or kv.replaced)
