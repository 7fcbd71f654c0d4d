"""Compress: contexts that are complete become what their requests want of them, before the step is planned.

A context's KV is exact until then: it is found and published like any other. What comes after it waits, is computed
over what is left, and is never published. A request that is preempted begins anew, and as methods depend on nothing but
the context, it comes to the same. To decide what stays takes a while: beside requests that go on, a little of it is
done in every step. What is left is kept for others who ask for the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from kvloom.engine.kv import Replacement, Results
from kvloom.engine.outputs import GuardReport
from kvloom.engine.request import Sequence, Status
from kvloom.engine.scheduler.preempt import Preempt
from kvloom.engine.scheduler.state import Queues, StepPlan
from kvloom.engine.shadow import Shadow
from kvloom.errors import RequestError
from kvloom.memory.ledger import Ledger

_SLICE_S = 0.02


@dataclass(frozen=True, slots=True)
class Compress:
    """What goes wrong ends the one request. Room for lists is made like any other. ``threads``: how many cores to use
    at most.
    """

    ledger: Ledger
    preempt: Preempt
    clock: Callable[[], float]
    threads: int
    results: Results

    def run(self, queues: Queues, plan: StepPlan) -> None:
        self.results.tidy()
        due = [sequence for sequence in queues.running if sequence.kv.context_due]
        if not due:
            return
        plan.compressing, plan.peak_bytes = True, self.ledger.held_bytes
        stop_s = math.inf if len(due) == len(queues.running) else self.clock() + _SLICE_S
        for sequence in due:
            if sequence.status is Status.RUNNING and not sequence.kv.repeat_next():  # nor preempted meanwhile
                try:
                    self._compress(sequence, queues, plan, lambda: self.clock() >= stop_s)
                except Exception as raised:
                    plan.method_failed(sequence, raised)

    def _compress(self, sequence: Sequence, queues: Queues, plan: StepPlan, until: Callable[[], bool]) -> None:
        kv, request = sequence.kv, sequence.request
        assert request.cache.method is not None
        if kv.underway is None:
            room = None if request.blocks is None else request.blocks.room
            kv.underway = Replacement(kv, kv.boundary, request.cache.method, room, self.threads)
        replacement = kv.underway
        if not replacement.decide(until):
            return
        if request.cache.guard is not None:
            sequence.shadow = Shadow(request.cache.guard, kv.exact_copy())
            request.metrics.guard = request.metrics.guard or GuardReport()
        while not replacement.carry_out():
            if not self.preempt.make_room(sequence, queues, plan):
                if sequence in plan.failed:
                    plan.failed[sequence] = _no_room(replacement.stop)
                return
        sequence.was_compressed(replacement.kept)
        self.results.keep(kv, replacement.kept)


def _no_room(tokens: int) -> RequestError:
    return RequestError(
        f"no room for what is left of a context of {tokens} tokens",
        hint="raise kv_bytes, or remove more",
        param="compression",
    )
