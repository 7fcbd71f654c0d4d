"""Fuse: a prompt goes on over documents that were computed elsewhere, before the step is planned.

They are looked up, and loaded, when it starts: while its prefix, and others, are computed; from tiers even before
(``load_ahead.py``). Where too little is kept of
the earlier context whose parts they are, the prompt starts over, and is computed as ever.
"""

from __future__ import annotations

from collections.abc import Sequence as ListOf
from dataclasses import dataclass
from functools import partial

from kvloom.engine.fusing import Fusing
from kvloom.engine.planner import Planner
from kvloom.engine.request import Sequence, Status
from kvloom.engine.scheduler.account import Account
from kvloom.engine.scheduler.finding import Finding
from kvloom.engine.scheduler.preempt import Preempt
from kvloom.engine.scheduler.state import Queues, StepPlan
from kvloom.model.base import Model
from kvloom.policy.cost_estimate import CostEstimate
from kvloom.policy.fusion import faster
from kvloom.segment import Span


@dataclass(frozen=True, slots=True)
class Fuse:
    """``prefill``: what computing costs, as it is known so far. ``step_tokens``: of a step at most. ``threads``: how
    many cores to use at most.
    """

    model: Model
    planner: Planner
    preempt: Preempt
    finding: Finding
    prefill: CostEstimate
    account: Account
    step_tokens: int
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
        if sequence.layerwise is None and not sequence.kv.fused:
            sequence.layerwise = self._fusing(sequence)
        fusing = sequence.layerwise
        while isinstance(fusing, Fusing) and not fusing.advance():
            if not self.preempt.make_room(sequence, queues, plan):
                break
        if isinstance(fusing, Fusing) and fusing.coming.compressing:
            plan.compressing = True
        if isinstance(fusing, Fusing) and fusing.in_vain:
            self.account.not_fused(sequence)
            queues.wait_again(sequence)
            sequence.kv.compute_all()

    def _fusing(self, sequence: Sequence) -> Fusing:
        coming, sequence.documents = sequence.documents or self.finding.documents(sequence), None
        worth = partial(self._worth, sequence)
        return Fusing(sequence, self.model, self.planner, coming, self.prefill, worth, self.threads)

    def _worth(self, sequence: Sequence, documents: ListOf[Span]) -> bool:
        """Whether a fusion of what is there takes less time than computing the prompt."""
        fusion, layers = sequence.request.fusion, len(self.planner.layout.layers)
        assert fusion is not None
        proportions = self.prefill.proportions
        return faster(fusion, documents, sequence.num_prompt, layers, self.step_tokens, proportions)
