"""Finding: the documents of a request as they are to be looked up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from kvloom.engine.cache_params import CacheParams, KeptAs, Source
from kvloom.engine.kv import (
    CompressedKv,
    DocumentKv,
    Documents,
    EarlierKv,
    PageNames,
    PassageKv,
    Results,
    Watch,
)
from kvloom.engine.layout import KvLayout
from kvloom.engine.request import Sequence
from kvloom.engine.scheduler.loads import Loads
from kvloom.memory.format import PAGE_TOKENS
from kvloom.memory.keys import chunk_root, imported_root, page_key
from kvloom.memory.ledger import Ledger
from kvloom.memory.tier.base import Place
from kvloom.model.base import Model
from kvloom.policy.compression.identity import identity_of
from kvloom.segment import PageKey, Span


@dataclass(frozen=True, slots=True)
class Compressing:
    """What compresses documents. ``text_of``: a token's text. ``threads``: how many cores to use at most."""

    model: Model
    text_of: Callable[[int], str]
    results: Results
    clock: Callable[[], float]
    threads: int


@dataclass(frozen=True, slots=True)
class Finding:
    """``lead``: what documents are computed behind when they are computed alone."""

    ledger: Ledger
    layout: KvLayout
    loads: Loads
    lead: tuple[int, ...]
    compressing: Compressing

    def documents(self, sequence: Sequence) -> Documents:
        """Of a fused prompt: nothing of them is held, or looked up."""
        cache = sequence.request.cache
        plain = replace(cache, fusion=None, documents=(), source=None, marks=())
        if cache.source is not None:
            return Documents(self._parts(sequence, cache.source, plain), self.loads.load_parts)
        each = [self._document(sequence, number, plain) for number in range(len(cache.spans))]
        return Documents(each, self.loads.load_alone)

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

    def _document(self, sequence: Sequence, number: int, cache: CacheParams) -> DocumentKv:
        compression, to = sequence.request.of_documents, self.compressing
        if compression is None:
            return self._passage(sequence, number, cache)
        start, stop = sequence.request.cache.spans[number]
        watch = Watch(to.model, compression.needs, len(self.lead) + stop - start, text_of=to.text_of)
        passage = self._passage(sequence, number, cache, identity_of(compression), watch)
        return CompressedKv(passage, compression, to.results, to.clock, to.threads)

    def _passage(
        self,
        sequence: Sequence,
        number: int,
        cache: CacheParams,
        method_id: bytes | None = None,
        watch: Watch | None = None,
    ) -> PassageKv:
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
        text = self.lead, tokens, span
        return PassageKv.of(self.ledger, owner, root, self.layout, alone, *text, method_id, watch)

    def _is_there(self, root: PageKey, first: list[int]) -> bool:
        """Whether the first page of a passage is in RAM, or in a tier."""
        key = page_key(root, first)
        return self.ledger.index.find(key, first) is not None or self.loads.tiers.find(Place(key, 0)) is not None
