"""Chunk: split the row budget. Sequences that need one row go first, then the others in order.

A prompt that arrives while answers are streaming gets as many rows as keep them flowing (``prefill_budget.py``).
Prompts that were there when the oldest of those answers began get all rows that are left: requests that arrive
together start together, and meanwhile they stream in larger steps.
"""

from __future__ import annotations

from dataclasses import dataclass

from kvloom.engine.request import Sequence
from kvloom.engine.scheduler.prefill_budget import PrefillBudget
from kvloom.engine.scheduler.state import Chunk, Queues, StepPlan

_TOGETHER_S = 0.5
"""Requests that come within this time of an answer's first token count as having come with it: over HTTP a burst is
read one by one, on cores that compute the first of it already."""


@dataclass(frozen=True, slots=True)
class ChunkRunning:
    """Gives every running sequence its lowest missing positions, as far as rows are left.

    What something pending comes before has to wait.
    """

    prefill_budget: PrefillBudget

    def run(self, queues: Queues, plan: StepPlan) -> None:
        single: list[Sequence] = []
        others: list[Sequence] = []
        for sequence in queues.running:
            (single if len(sequence.kv.missing) == 1 else others).append(sequence)
        streaming = [since for sequence in single if (since := sequence.request.streaming_since_s) is not None]
        if streaming:
            plan.streaming_since_s = min(streaming) + _TOGETHER_S
            if prompts := len(others) + len(queues.waiting):
                plan.late_rows_left = self.prefill_budget.rows(len(streaming), prompts)
        for sequence in (*single, *others):
            if (room := plan.room(sequence)) and (spans := sequence.kv.ready(room)):
                plan.add(Chunk(sequence, spans))
