"""Preempt: reserve a page for every row of the step; if memory runs out, compress a sequence that allows it, or preempt
the last one in order.

What was loaded ahead for those that wait goes first. Shadows of guarded sequences go before anybody is compressed or
preempted, and never displace anything themselves.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from kvloom.engine.kv import Replacement
from kvloom.engine.request import Sequence, Status
from kvloom.engine.scheduler.squeeze import Squeeze
from kvloom.engine.scheduler.state import Queues, StepPlan
from kvloom.memory.ledger import Ledger
from kvloom.policy.actions import Drop


@dataclass
class Preempt:
    """A sequence is only ever preempted in favour of one that precedes it in order."""

    ledger: Ledger
    squeeze: Squeeze
    preemptions: int = 0
    shadows_lost: int = 0

    def run(self, queues: Queues, plan: StepPlan) -> None:
        for chunk in list(plan.chunks.values()):
            if chunk.sequence not in plan.chunks:  # preempted in the meantime
                continue
            while not chunk.sequence.kv.reserve(chunk.spans):
                if not self.make_room(chunk.sequence, queues, plan):
                    break
        for sequence, work in list(plan.passes.items()):
            while sequence in plan.passes and not work.reserve():
                self.make_room(sequence, queues, plan)
        for chunk in list(plan.shadows.values()):
            if not chunk.kv.reserve(chunk.spans):
                self._lose_shadow(chunk.sequence, plan)

    def make_room(self, sequence: Sequence, queues: Queues, plan: StepPlan) -> bool:
        """Give up what was loaded ahead for one that waits, or a shadow, compress one, or preempt the last sequence in
        order; False if ``sequence`` is preempted.
        """
        if queues.give_up_documents():
            return True
        for guarded in reversed(queues.running):
            if guarded.shadow is not None:
                self._lose_shadow(guarded, plan)
                return True
        squeezed = self.squeeze.decided(queues, plan)
        if squeezed is not None:
            return self._squeeze(*squeezed, sequence, queues, plan)
        victim, alone = queues.running[-1], len(queues.running) == 1
        self._preempt(victim, queues, plan)
        if alone:
            self._start_over(victim, plan)
        return sequence.status is Status.RUNNING

    def _lose_shadow(self, sequence: Sequence, plan: StepPlan) -> None:
        """The sequence goes on compressed, and unguarded."""
        plan.discard_shadow(sequence)
        sequence.lose_shadow()
        metrics = sequence.request.metrics
        assert metrics.guard is not None
        metrics.guard = replace(metrics.guard, lost_at=sequence.num_generated)
        self.shadows_lost += 1

    def _squeeze(
        self, squeezed: Sequence, replacement: Replacement, sequence: Sequence, queues: Queues, plan: StepPlan
    ) -> bool:
        """As ``make_room``. There may still be no room: others hold the pages, or they lie in several slabs. Then the
        last in order give way, among them perhaps ``sequence``.
        """
        while squeezed.status is Status.RUNNING:
            if replacement.carry_out():
                squeezed.was_compressed(replacement.kept)
                break
            self._preempt(queues.running[-1], queues, plan)
        return sequence.status is Status.RUNNING

    def _start_over(self, sequence: Sequence, plan: StepPlan) -> None:
        """The only running sequence is out of memory: its pages occupy slabs that pages of other formats need.

        It starts over in an empty arena. If it has made no progress since the last time, it never will.
        """
        for page in self.ledger.droppable():
            self.ledger.apply(Drop(page))
        if sequence.started_over_at == len(sequence.tokens):
            plan.no_room(sequence)
        sequence.started_over_at = len(sequence.tokens)

    def _preempt(self, victim: Sequence, queues: Queues, plan: StepPlan) -> None:
        """All its positions are missing again. Published pages stay cached while there is room."""
        plan.discard(victim)
        queues.wait_again(victim)
        victim.request.metrics.preemptions += 1
        if victim.index == 0:
            victim.request.metrics.compressed = None
        self.preemptions += 1
