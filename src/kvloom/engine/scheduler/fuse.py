"""Fuse: a prompt goes on over documents that were computed elsewhere, before the step is planned.

They are looked up, and loaded, when it starts: while its prefix, and others, are computed. Where too little is kept of
the earlier context whose parts they are, the prompt starts over, and is computed as ever.
"""

from __future__ import annotations

from collections.abc import Sequence as ListOf
from dataclasses import dataclass, replace
from functools import partial

from kvloom.engine.cache_params import CacheParams, KeptAs, Source
from kvloom.engine.fusing import Fusing
from kvloom.engine.kv import DocumentKv, EarlierKv, PageNames, PassageKv
from kvloom.engine.planner import Planner
from kvloom.engine.request import Sequence, Status
from kvloom.engine.scheduler.account import Account
from kvloom.engine.scheduler.loads import Loads
from kvloom.engine.scheduler.preempt import Preempt
from kvloom.engine.scheduler.state import Queues, StepPlan
from kvloom.memory.format import PAGE_TOKENS
from kvloom.memory.keys import chunk_root, imported_root, page_key
from kvloom.memory.ledger import Ledger
from kvloom.memory.tier.base import Place
from kvloom.model.base import Model
from kvloom.policy.fusion import faster
from kvloom.segment import PageKey, Span


@dataclass(frozen=True, slots=True)
class Fuse:
    """``lead``: what documents are computed behind when they are computed alone. ``step_tokens``: of a step at most.
    ``threads``: how many cores to use at most.
    """

    model: Model
    planner: Planner
    ledger: Ledger
    preempt: Preempt
    loads: Loads
    account: Account
    lead: tuple[int, ...]
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
        if isinstance(fusing, Fusing) and fusing.in_vain:
            self.account.not_fused(sequence)
            queues.wait_again(sequence)
            sequence.kv.compute_all()

    def _fusing(self, sequence: Sequence) -> Fusing:
        cache = sequence.request.cache
        plain = replace(cache, fusion=None, documents=(), source=None, marks=())
        coming: list[DocumentKv]
        if cache.source is not None:
            coming, load = self._parts(sequence, cache.source, plain), self.loads.load_parts
        else:
            coming = [self._passage(sequence, number, plain) for number in range(len(cache.spans))]
            load = self.loads.load_alone
        worth = partial(self._worth, sequence)
        return Fusing(sequence, self.model, self.planner, coming, load, self.loads.prefill, worth, self.threads)

    def _worth(self, sequence: Sequence, documents: ListOf[Span]) -> bool:
        """Whether a fusion of what is there takes less time than computing the prompt."""
        fusion, layers = sequence.request.fusion, len(self.planner.layout.layers)
        assert fusion is not None
        proportions = self.loads.prefill.proportions
        return faster(fusion, documents, sequence.num_prompt, layers, self.step_tokens, proportions)

    def _parts(self, sequence: Sequence, source: Source, cache: CacheParams) -> list[DocumentKv]:
        """Its documents as parts of an earlier context."""
        spans = [Span(*span) for span in sequence.request.cache.spans]
        last = max(start + len(span) for start, span in zip(source.starts, spans, strict=True))
        names = PageNames(sequence.request.root, list(source.tokens[: last + PAGE_TOKENS]))
        names.extend()
        asked = self.ledger, names, self.planner.layout, cache
        return [
            EarlierKv.of(*asked, f"{sequence.owner}/part{number}", span, start)
            for number, (span, start) in enumerate(zip(spans, source.starts, strict=True))
        ]

    def _passage(self, sequence: Sequence, number: int, cache: CacheParams) -> PassageKv:
        request = sequence.request
        span, tokens = Span(*request.cache.spans[number]), request.prompt_token_ids
        first = [*self.lead, *tokens[span.start : span.stop]][:PAGE_TOKENS]
        computed = chunk_root(request.root)
        imported = imported_root(computed)
        came_in_a_file = not self._is_there(computed, first) and self._is_there(imported, first)
        kept_as: KeptAs = "imported" if came_in_a_file else "chunk"
        root = imported if came_in_a_file else computed
        alone = replace(cache, kept_as=kept_as)
        owner = f"{sequence.owner}/document{number}"
        return PassageKv.of(self.ledger, owner, root, self.planner.layout, alone, self.lead, tokens, span)

    def _is_there(self, root: PageKey, first: list[int]) -> bool:
        """Whether the first page of a passage is in RAM, or in a tier."""
        key = page_key(root, first)
        return self.ledger.index.find(key, first) is not None or self.loads.tiers.find(Place(key, 0)) is not None
