"""Compress: contexts that are complete become what their requests want of them, before the step is planned.

A context's KV is exact until then: it is found and published like any other. What comes after it in the prompt waits,
is computed over what is left, and is never published. A request that is preempted begins anew, and as methods depend
on nothing but the context, it comes to the same.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from kvloom.engine.kv import Replacement
from kvloom.engine.outputs import CompressedContext
from kvloom.engine.request import Sequence, Status
from kvloom.engine.scheduler.preempt import Preempt
from kvloom.engine.scheduler.state import Queues, StepPlan
from kvloom.errors import InternalError, KvloomError, RequestError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Compress:
    """What goes wrong ends the one request. Room for lists is made like any other."""

    preempt: Preempt

    def run(self, queues: Queues, plan: StepPlan) -> None:
        due = [sequence for sequence in queues.running if sequence.kv.context_due]
        for sequence in due:
            if sequence.status is Status.RUNNING and not sequence.kv.repeat_next():  # nor preempted meanwhile
                try:
                    self._compress(sequence, queues, plan)
                except KvloomError as error:
                    plan.failed[sequence] = error
                except Exception as raised:
                    logger.error("compression for %s failed", sequence.owner, exc_info=raised)
                    fault = InternalError(f"compression failed: {type(raised).__name__}: {raised}")
                    fault.__cause__ = raised
                    plan.failed[sequence] = fault

    def _compress(self, sequence: Sequence, queues: Queues, plan: StepPlan) -> None:
        kv, compression = sequence.kv, sequence.request.cache.compression
        assert compression is not None
        replacement = Replacement.of(kv, kv.boundary, compression)
        while not replacement.carry_out():
            if not self.preempt.make_room(sequence, queues, plan):
                if sequence in plan.failed:
                    plan.failed[sequence] = _no_room(kv.boundary)
                return
        plan.peak_bytes = max(plan.peak_bytes, replacement.peak_bytes)
        if sequence.index == 0:
            sequence.request.metrics.compressed = CompressedContext(
                method=compression.name,
                params=compression.params,
                ratio=compression.ratio,
                tokens=kv.boundary,
                protected=int(compression.protect.mask(np.arange(kv.boundary)).sum()),
                kept=replacement.kept,
                bytes=kv.lists_bytes,
            )


def _no_room(tokens: int) -> RequestError:
    return RequestError(
        f"no room to compress a context of {tokens} tokens: for a moment exact and compressed KV are there",
        hint="raise kv_bytes, or remove more",
        param="compression",
    )
