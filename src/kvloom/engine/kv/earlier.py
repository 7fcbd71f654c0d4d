"""A part of an earlier context, which a prompt has elsewhere: what is kept of its exact KV is read as it lies.

earlier context   [ before  )[ deleted )[ after                 )
its pages         |----|----|----|----|----|----|----|----|----|
the prompt        [ before  )[ after                 )[ question )
                             ^ the first page is read from its middle on
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from operator import and_

from kvloom.engine.cache_params import CacheParams
from kvloom.engine.kv.fused import PagesRead, Read
from kvloom.engine.kv.names import PageNames
from kvloom.engine.kv.sequence import SequenceKv
from kvloom.engine.layout import KvLayout
from kvloom.memory.format import PAGE_TOKENS
from kvloom.memory.ledger import Ledger
from kvloom.memory.table import FULL_MASK, page_span
from kvloom.segment import PageId, Span, SpanSet


@dataclass(slots=True, eq=False)
class EarlierKv:
    """``kv``: of the earlier context, as far as its pages hold ``inside``, which the prompt has at ``span``.

    ``begun``: it was looked up, and holds what was found.
    """

    span: Span
    inside: Span
    kv: SequenceKv
    begun: bool = False

    @staticmethod
    def of(
        ledger: Ledger, names: PageNames, layout: KvLayout, cache: CacheParams, owner: str, span: Span, start: int
    ) -> EarlierKv:
        """``names``: of the whole earlier context. ``start``: where ``span`` of the prompt begins in it.

        ``cache``: without anything that changes KV.
        """
        inside = Span(start, start + len(span))
        last = -(-inside.stop // PAGE_TOKENS) * PAGE_TOKENS
        needed = PageNames(names.root, names.tokens[: last + 1])  # a load leaves the last page, so it is one of no use
        needed.keys, needed.contents = names.keys[: last // PAGE_TOKENS], names.contents[: last // PAGE_TOKENS]
        kv = SequenceKv(ledger, owner, needed, layout.new_tables(), cache, keeps_passed=True)
        return EarlierKv(span, inside, kv)

    def begin(self) -> bool:
        """Look it up and hold what is there. False: somebody is computing a page that is missing."""
        kv = self.kv
        found = dict(self._found()) if kv.cache.read else {}
        missing = [n for n in self._indices if n not in found]
        keys, index = kv.names.keys, kv.ledger.index
        if any(index.coming_from(keys[n]) not in (None, kv.owner) for n in missing if n < len(keys)):
            return False
        for n, (pages, tokens) in found.items():
            for group, page in enumerate(pages):
                kv.adopt(group, n, page, tokens)
        kv.missing = SpanSet.of(page_span(n) for n in missing) & SpanSet.full(len(kv.tokens))
        self.begun = True
        return True

    def let_go(self) -> None:
        """Hold nothing, as before ``begin``."""
        self.kv.release()
        self.begun = False

    @property
    def lacking(self) -> int:
        """Tokens of the document that are neither there nor on their way."""
        coming = self._held() | self.kv.pending
        return len(SpanSet((self.inside,)) - coming)

    @property
    def complete(self) -> bool:
        return self.begun and not self.kv.pending

    def make_room(self) -> bool:
        """Nothing is computed here."""
        return True

    @property
    def compressing(self) -> bool:
        return False

    @property
    def left(self) -> SpanSet:
        """Nothing is computed here: what lacks depends on more than what the prompt has."""
        return SpanSet()

    def reads(self) -> list[Read]:
        """When it is complete: what is there, where the prompt has it."""
        moved = self.span.start - self.inside.start
        reads: list[Read] = []
        for part in self._held() & SpanSet((self.inside,)):
            pages = range(part.start // PAGE_TOKENS, -(-part.stop // PAGE_TOKENS))
            by_group = [[PageId(table.ids[n]) for n in pages] for table in self.kv.tables]
            reads.append(PagesRead(Span(part.start + moved, part.stop + moved), part.start, by_group))
        return reads

    @property
    def _indices(self) -> range:
        return range(self.inside.start // PAGE_TOKENS, -(-self.inside.stop // PAGE_TOKENS))

    def _held(self) -> SpanSet:
        """Positions whose KV all layer groups hold."""
        spans = []
        for n in self._indices:
            masks = [table.filled[n] if n < len(table.filled) else 0 for table in self.kv.tables]
            filled = reduce(and_, masks)
            if filled == FULL_MASK:
                spans.append(page_span(n))
            else:
                first = n * PAGE_TOKENS
                spans += [Span(first + s, first + s + 1) for s in range(PAGE_TOKENS) if filled >> s & 1]
        return SpanSet.of(spans)

    def _found(self) -> Iterator[tuple[int, tuple[list[PageId], int]]]:
        """Of each page that RAM has for all layer groups, or the beginning of: its number, pages, and tokens."""
        kv, index = self.kv, self.kv.ledger.index
        for n in self._indices:
            tokens = kv.names.page_tokens(n)
            entry = index.find(kv.names.keys[n], tokens) if n < len(kv.names.keys) else None
            near = (entry, len(tokens)) if entry is not None else None
            if near is None and kv.cache.match == "tokens":
                near = index.nearest(kv.names.parent_key(n), tokens)
            if near is None:
                continue
            pages = [page for page in near[0].pages if page is not None]
            if len(pages) == len(kv.tables):
                yield n, (pages, near[1])
