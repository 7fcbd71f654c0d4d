"""Steps of which the time says what prefill costs."""

from __future__ import annotations

from kvloom.engine.scheduler.state import Chunk, StepPlan
from kvloom.policy.cost import position_sum


def plain_prefill(plan: StepPlan) -> tuple[int, int] | None:
    """Tokens that the step computes and the sum of their positions; None if it does anything else beside that.

    A single token is an answer's. Others cost more, or less: where all rows have logits, what is watched, and what
    comes after a context that was compressed.
    """
    chunks = plan.chunks.values()
    if plan.shadows or plan.compressing or not all(map(_plain, chunks)):
        return None
    spans = [chunk.spans for chunk in chunks]
    return sum(map(len, spans)), sum(map(position_sum, spans))


def _plain(chunk: Chunk) -> bool:
    kv = chunk.kv
    return len(chunk.spans) > 1 and not (chunk.wants_prompt_scores or kv.watch is not None or kv.replaced)
