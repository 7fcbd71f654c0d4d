"""Fuse: a prompt whose prefix is there goes on over documents that were computed alone, before the step is planned."""

from __future__ import annotations

from dataclasses import dataclass, replace

from kvloom.engine.fusing import Fusing
from kvloom.engine.kv import Passage
from kvloom.engine.planner import Planner
from kvloom.engine.request import Sequence, Status
from kvloom.engine.scheduler.loads import Loads
from kvloom.engine.scheduler.preempt import Preempt
from kvloom.engine.scheduler.state import Queues, StepPlan
from kvloom.memory.ledger import Ledger
from kvloom.model.base import Model
from kvloom.segment import Span


@dataclass(frozen=True, slots=True)
class Fuse:
    """``lead``: what begins every text, and documents that are computed alone. ``threads``: how many cores to use at
    most.
    """

    model: Model
    planner: Planner
    ledger: Ledger
    preempt: Preempt
    loads: Loads
    lead: tuple[int, ...]
    threads: int

    def run(self, queues: Queues, plan: StepPlan) -> None:
        for sequence in [each for each in queues.running if each.kv.fuses]:
            if sequence.status is not Status.RUNNING or sequence in plan.failed:  # preempted meanwhile
                continue
            try:
                self._advance(sequence, queues, plan)
            except Exception as raised:
                plan.method_failed(sequence, raised, "fusion")

    def _advance(self, sequence: Sequence, queues: Queues, plan: StepPlan) -> None:
        if sequence.kv.prefix_done and sequence.layerwise is None:
            sequence.layerwise = self._fusing(sequence)
        fusing = sequence.layerwise
        while isinstance(fusing, Fusing) and not fusing.advance():
            if not self.preempt.make_room(sequence, queues, plan):
                break

    def _fusing(self, sequence: Sequence) -> Fusing:
        request = sequence.request
        cache = replace(request.cache, fusion=None, documents=())
        passages = [
            Passage.of(
                self.ledger,
                f"{sequence.owner}/document{number}",
                request.root,
                self.planner.layout,
                cache,
                self.lead,
                request.prompt_token_ids,
                Span(*span),
            )
            for number, span in enumerate(request.cache.documents)
        ]
        return Fusing(sequence, self.model, self.planner, passages, self.loads.load_alone, self.threads)
