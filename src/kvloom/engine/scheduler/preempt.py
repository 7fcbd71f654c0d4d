"""Preempt: find a page for every row of the step; if there is none, the last in order gives its memory up."""

from __future__ import annotations

from dataclasses import dataclass

from kvloom.engine.request import Sequence
from kvloom.engine.scheduler.state import Queues, StepPlan
from kvloom.memory.ledger import Ledger
from kvloom.policy.actions import Drop


@dataclass
class Preempt:
    """Who is earlier in order wins: a sequence is only ever preempted for one that comes before it."""

    ledger: Ledger
    preemptions: int = 0

    def run(self, queues: Queues, plan: StepPlan) -> None:
        for chunk in list(plan.chunks.values()):
            if chunk.sequence not in plan.chunks:  # preempted meanwhile
                continue
            while not chunk.sequence.kv.reserve(chunk.spans):
                if not self.make_room(chunk.sequence, queues, plan):
                    break

    def make_room(self, sequence: Sequence, queues: Queues, plan: StepPlan) -> bool:
        """Let the last in order give its memory up; False when that is ``sequence`` itself."""
        victim, alone = queues.running[-1], len(queues.running) == 1
        self._preempt(victim, queues, plan)
        if alone:
            self._start_over(victim, plan)
        return victim is not sequence

    def _start_over(self, sequence: Sequence, plan: StepPlan) -> None:
        """Alone and out of room: its pages lie scattered over slabs that other formats need; in an empty arena it fits.

        If it has not come further since it last started over, it never will.
        """
        for page in self.ledger.droppable():
            self.ledger.apply(Drop(page))
        if sequence.started_over_at == len(sequence.tokens):
            plan.no_room(sequence)
        sequence.started_over_at = len(sequence.tokens)

    def _preempt(self, victim: Sequence, queues: Queues, plan: StepPlan) -> None:
        """All is missing again: its published pages stay cached while there is room, the rest is computed again."""
        plan.discard(victim)
        queues.remove(victim)
        victim.kv.release()
        victim.request.metrics.preemptions += 1
        self.preemptions += 1
        queues.enqueue(victim)
