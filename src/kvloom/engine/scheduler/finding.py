"""Finding: the documents of a request as they are to be looked up."""

from __future__ import annotations

from dataclasses import dataclass, replace

from kvloom.engine.cache_params import CacheParams, KeptAs, Source
from kvloom.engine.kv import DocumentKv, Documents, EarlierKv, PageNames, PassageKv
from kvloom.engine.layout import KvLayout
from kvloom.engine.request import Sequence
from kvloom.engine.scheduler.loads import Loads
from kvloom.memory.format import PAGE_TOKENS
from kvloom.memory.keys import chunk_root, imported_root, page_key
from kvloom.memory.ledger import Ledger
from kvloom.memory.tier.base import Place
from kvloom.segment import PageKey, Span


@dataclass(frozen=True, slots=True)
class Finding:
    """``lead``: what documents are computed behind when they are computed alone."""

    ledger: Ledger
    layout: KvLayout
    loads: Loads
    lead: tuple[int, ...]

    def documents(self, sequence: Sequence) -> Documents:
        """Of a fused prompt: nothing of them is held, or looked up."""
        cache = sequence.request.cache
        plain = replace(cache, fusion=None, documents=(), source=None, marks=())
        if cache.source is not None:
            return Documents(self._parts(sequence, cache.source, plain), self.loads.load_parts)
        passages: list[DocumentKv] = [self._passage(sequence, number, plain) for number in range(len(cache.spans))]
        return Documents(passages, self.loads.load_alone)

    def _parts(self, sequence: Sequence, source: Source, cache: CacheParams) -> list[DocumentKv]:
        """Its documents as parts of an earlier context."""
        spans = [Span(*span) for span in sequence.request.cache.spans]
        last = max(start + len(span) for start, span in zip(source.starts, spans, strict=True))
        names = PageNames(sequence.request.root, list(source.tokens[: last + PAGE_TOKENS]))
        names.extend()
        asked = self.ledger, names, self.layout, cache
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
        return PassageKv.of(self.ledger, owner, root, self.layout, alone, self.lead, tokens, span)

    def _is_there(self, root: PageKey, first: list[int]) -> bool:
        """Whether the first page of a passage is in RAM, or in a tier."""
        key = page_key(root, first)
        return self.ledger.index.find(key, first) is not None or self.loads.tiers.find(Place(key, 0)) is not None
