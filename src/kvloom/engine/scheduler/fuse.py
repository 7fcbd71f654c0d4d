"""Fuse: a prompt whose prefix is there goes on over documents that were computed alone, before the step is planned."""

from __future__ import annotations

from dataclasses import dataclass, replace

from kvloom.engine.cache_params import KeptAs
from kvloom.engine.fusing import Fusing
from kvloom.engine.kv import PassageKv
from kvloom.engine.planner import Planner
from kvloom.engine.request import Sequence, Status
from kvloom.engine.scheduler.loads import Loads
from kvloom.engine.scheduler.preempt import Preempt
from kvloom.engine.scheduler.state import Queues, StepPlan
from kvloom.memory.format import PAGE_TOKENS
from kvloom.memory.keys import chunk_root, imported_root, page_key
from kvloom.memory.ledger import Ledger
from kvloom.memory.tier.base import Place
from kvloom.model.base import Model
from kvloom.segment import PageKey, Span


@dataclass(frozen=True, slots=True)
class Fuse:
    """``lead``: what documents are computed behind when they are computed alone. ``threads``: how many cores to use at
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
        passages = [self._passage(sequence, number) for number in range(len(sequence.request.cache.documents))]
        load = self.loads.load_alone
        return Fusing(sequence, self.model, self.planner, passages, load, self.loads.prefill, self.threads)

    def _passage(self, sequence: Sequence, number: int) -> PassageKv:
        request = sequence.request
        span, tokens = Span(*request.cache.documents[number]), request.prompt_token_ids
        first = [*self.lead, *tokens[span.start : span.stop]][:PAGE_TOKENS]
        computed = chunk_root(request.root)
        imported = imported_root(computed)
        came_in_a_file = not self._is_there(computed, first) and self._is_there(imported, first)
        kept_as: KeptAs = "imported" if came_in_a_file else "chunk"
        root = imported if came_in_a_file else computed
        cache = replace(request.cache, fusion=None, documents=(), marks=(), kept_as=kept_as)
        owner = f"{sequence.owner}/document{number}"
        return PassageKv.of(self.ledger, owner, root, self.planner.layout, cache, self.lead, tokens, span)

    def _is_there(self, root: PageKey, first: list[int]) -> bool:
        """Whether the first page of a passage is in RAM, or in a tier."""
        key = page_key(root, first)
        return self.ledger.index.find(key, first) is not None or self.loads.tiers.find(Place(key, 0)) is not None
