"""A document computed alone: found in the index like any text, or computed for all who ask for it later."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kvloom.engine.cache_params import CacheParams
from kvloom.engine.kv.names import PageNames
from kvloom.engine.kv.sequence import SequenceKv
from kvloom.engine.layout import KvLayout
from kvloom.memory.format import PAGE_TOKENS
from kvloom.memory.ledger import Ledger
from kvloom.segment import PageId, PageKey, Span, SpanSet


@dataclass(slots=True, eq=False)
class Passage:
    """``kv`` of the ``lead`` that begins every text, and of the tokens at ``span`` of a prompt, from position 0 on.

    ``begun``: it was looked up, and holds what was found.
    """

    span: Span
    lead: int
    kv: SequenceKv
    begun: bool = False

    @staticmethod
    def of(
        ledger: Ledger,
        owner: str,
        root: PageKey,
        layout: KvLayout,
        cache: CacheParams,
        lead: Sequence[int],
        tokens: Sequence[int],
        span: Span,
    ) -> Passage:
        """``root``: of passages. ``tokens``: the prompt's. ``cache``: without anything that changes KV."""
        alone = [*lead, *tokens[span.start : span.stop]]
        kv = SequenceKv(ledger, owner, PageNames(root, alone), layout.new_tables(), cache)
        return Passage(span, len(lead), kv)

    def begin(self) -> bool:
        """Look it up and hold what is there. False: somebody is computing the first page that is missing."""
        kv, index = self.kv, self.kv.ledger.index
        kv.names.extend()
        hits: list[tuple[int, Sequence[PageId | None], int]] = []
        for n, key in enumerate(kv.names.keys if kv.cache.read else ()):
            entry = index.find(key, kv.names.page_tokens(n))
            if entry is not None and None not in entry.pages:
                hits.append((n, entry.pages, PAGE_TOKENS))
            elif index.coming_from(key) not in (None, kv.owner):
                return False
        whole, rest = divmod(len(kv.tokens), PAGE_TOKENS)
        if (tail := kv.tail_key) is not None and kv.cache.read:
            if index.coming_from(tail) not in (None, kv.owner):
                return False
            near = index.nearest(kv.names.parent_key(whole), kv.names.page_tokens(whole))
            if near is not None and near[1] == rest and None not in near[0].pages:
                hits.append((whole, near[0].pages, rest))
        missing = SpanSet.full(len(kv.tokens))
        for n, pages, count in hits:
            for group, page in enumerate(pages):
                assert page is not None
                kv.adopt(group, n, page, count)
            missing = missing - SpanSet((Span(n * PAGE_TOKENS, n * PAGE_TOKENS + count),))
        kv.start(missing)
        if missing:
            kv.promise_tail()
        self.begun = True
        return True

    @property
    def lacking(self) -> int:
        """Tokens of the document that are to be computed."""
        return len(self.kv.missing - SpanSet.full(self.lead))

    @property
    def complete(self) -> bool:
        return self.begun and not self.kv.missing and not self.kv.pending

    def pages(self, group: int) -> list[PageId]:
        return [page for _, page in self.kv.tables[group].pages()]
