"""Chunk: divide the row budget among running sequences. Those that need a single row come first, then others in order.

What is computed of prompts that arrive while answers are streaming is limited, so that the streams keep flowing
(``prefill_budget.py``). Prompts that arrived before the oldest of those answers began get all remaining rows, unless
answers have a latency to keep: requests that arrive together start together, and until then their answers stream in
larger steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from kvloom.engine.layer_pass import Layerwise
from kvloom.engine.request import Sequence
from kvloom.engine.scheduler.prefill_budget import PrefillBudget
from kvloom.engine.scheduler.state import Chunk, Queues, StepPlan
from kvloom.engine.shadow import Shadow

_TOGETHER_S = 0.5
"""Requests that arrive within this time after an answer's first token are treated as if they had arrived with it: over
HTTP the requests of a burst are read one by one, on cores that already compute the first of them."""


@dataclass(frozen=True, slots=True)
class ChunkRunning:
    """Gives every running sequence rows for its lowest missing positions, while rows are left: in a chunk, or in a pass
    where it is computed layer by layer.

    Positions after a pending one have to wait.
    """

    prefill_budget: PrefillBudget

    def run(self, queues: Queues, plan: StepPlan) -> None:
        single: list[Sequence] = []
        others: list[Sequence] = []
        for sequence in queues.running:
            single_row = len(sequence.kv.missing) == 1 and not sequence.in_passes
            (single if single_row else others).append(sequence)
        streaming = [since for sequence in single if (since := sequence.request.streaming_since_s) is not None]
        if streaming:
            spared = self.prefill_budget.spares_the_first
            plan.streaming_since_s = min(streaming) + _TOGETHER_S if spared else -math.inf
            if prompts := len(others) + len(queues.waiting):
                plan.late = self.prefill_budget.allowance(len(streaming), prompts)
        for sequence in (*single, *others):
            if sequence.layerwise is not None and sequence.in_passes:
                _pass(sequence, sequence.layerwise, plan)
            elif (room := plan.room(sequence)) and (spans := sequence.kv.ready(room)):
                chunk = Chunk(sequence, spans)
                if sequence.shadow is None or not chunk.closes or _exact_first(chunk, sequence.shadow, plan):
                    plan.add(chunk)


def _pass(sequence: Sequence, layerwise: Layerwise, plan: StepPlan) -> None:
    if rows := plan.room_for_pass(sequence, layerwise):
        plan.add_pass(sequence, layerwise.next(rows))


def _exact_first(chunk: Chunk, shadow: Shadow, plan: StepPlan) -> bool:
    """Let a shadow compute what it lacks if it is to say what comes next. False: there are no rows left for both, and
    the sequence waits for it. So it is always compared at the same tokens.
    """
    sequence = chunk.sequence
    if not shadow.wanted(sequence.num_generated):
        return True
    shadow.follow(sequence.tokens)
    exact = Chunk(sequence, shadow.kv.ready(plan.room(sequence)), shadow)
    plan.add(exact)
    return exact.closes and plan.room(sequence) >= len(chunk.spans)
