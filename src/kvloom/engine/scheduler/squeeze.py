"""Squeeze: where memory runs short, what is there of requests that allow it is compressed, before any is preempted."""

from __future__ import annotations

from dataclasses import dataclass

from kvloom.engine.kv import Replacement
from kvloom.engine.request import Sequence
from kvloom.engine.scheduler.state import Queues, StepPlan
from kvloom.memory.format import PAGE_TOKENS

_WORTH_TOKENS = 128
"""So many exact tokens must have come since the last time, and twice as many as are protected at the end."""


@dataclass
class Squeeze:
    """``count``: how often. ``threads``: of the kernels that copy."""

    threads: int = 1
    count: int = 0

    def decided(self, queues: Queues, plan: StepPlan) -> tuple[Sequence, Replacement] | None:
        """What to do to the last in order that allows it and has enough that is exact: to all its whole pages so far.

        Of the sequences whose method fails, the plan is told.
        """
        for sequence in reversed(queues.running):
            if sequence in plan.failed or sequence.layerwise is not None:
                continue
            if (replacement := self._replacement(sequence)) is None:
                continue
            try:
                replacement.decide()
            except Exception as raised:
                plan.method_failed(sequence, raised)
                continue
            self.count += 1
            return sequence, replacement
        return None

    def _replacement(self, sequence: Sequence) -> Replacement | None:
        request, kv = sequence.request, sequence.kv
        method = request.cache.method
        if method is None or request.cache.compress_when != "pressure" or request.params.n > 1 or kv.watch is None:
            return None
        lacking = kv.missing | kv.pending
        stop = (lacking.spans[0].start if lacking else len(kv.tokens)) // PAGE_TOKENS * PAGE_TOKENS
        if stop - kv.replaced < max(_WORTH_TOKENS, 2 * method.protect.protect_last):
            return None
        kv.watch = kv.watch.of_block(kv.replaced, stop)
        return Replacement(kv, stop, method, threads=self.threads)
