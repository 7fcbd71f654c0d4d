"""A document computed alone: found in the index like any text, or computed for all who ask for it later."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kvloom.engine.cache_params import CacheParams
from kvloom.engine.kv.fused import PagesRead, Read
from kvloom.engine.kv.names import PageNames
from kvloom.engine.kv.sequence import SequenceKv
from kvloom.engine.kv.watch import Watch
from kvloom.engine.layout import KvLayout
from kvloom.memory.format import PAGE_TOKENS
from kvloom.memory.index import Entry, Index
from kvloom.memory.keys import extend_keys
from kvloom.memory.ledger import Ledger
from kvloom.segment import PageId, PageKey, Span, SpanSet


def entries_in_ram(index: Index, root: PageKey, tokens: Sequence[int]) -> list[Entry | None]:
    """By page of a passage under ``root``, the last one too, what RAM has for all layer groups."""
    keys: list[PageKey] = []
    extend_keys(keys, root, tokens)
    found = [index.find(key, tokens[n * PAGE_TOKENS : (n + 1) * PAGE_TOKENS]) for n, key in enumerate(keys)]
    if rest := tuple(tokens[len(keys) * PAGE_TOKENS :]):
        after = index.continuations(keys[-1] if keys else root)
        found.append(next((each for each in after if each.tokens[: len(rest)] == rest and is_whole(each)), None))
    return [entry if entry is not None and is_whole(entry) else None for entry in found]


def is_whole(entry: Entry) -> bool:
    """Whether all layer groups have it."""
    return None not in entry.pages


@dataclass(slots=True, eq=False)
class PassageKv:
    """``kv`` of the ``lead`` that it is computed behind, and of the tokens at ``span`` of a prompt, from position 0 on.

    Of layers with a window it holds all pages too: a row that is computed again sees those before itself, and which
    rows these are is known when everything is there. A page that some layer group lacks is computed in all of them.

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
        method_id: bytes | None = None,
        watch: Watch | None = None,
    ) -> PassageKv:
        """``root``: of passages. ``tokens``: the prompt's. ``cache``: without anything that changes KV.

        ``watch``, ``method_id``: of what compresses all of it when it is complete; None: nothing does.
        """
        alone = [*lead, *tokens[span.start : span.stop]]
        names = PageNames(root, alone, limit=None if watch is None else len(alone), method_id=method_id)
        kv = SequenceKv(ledger, owner, names, layout.new_tables(), cache, watch, keeps_passed=True)
        return PassageKv(span, len(lead), kv)

    def begin(self) -> bool:
        """Look it up and hold what is there. False: somebody is computing a page that is missing."""
        kv, index = self.kv, self.kv.ledger.index
        kv.names.extend()
        keys = kv.names.keys if kv.tail_key is None else [*kv.names.keys, kv.tail_key]
        found = entries_in_ram(index, kv.names.root, kv.tokens) if kv.cache.read else []
        for key, entry in zip(keys, found, strict=False):
            if entry is None and index.coming_from(key) not in (None, kv.owner):
                return False
        missing = SpanSet.full(len(kv.tokens))
        for n, entry in enumerate(found):
            if entry is None:
                continue
            span = Span(n * PAGE_TOKENS, min((n + 1) * PAGE_TOKENS, len(kv.tokens)))
            for group, page in enumerate(entry.pages):
                assert page is not None
                kv.adopt(group, n, page, len(span))
            missing = missing - SpanSet((span,))
        kv.start(missing)
        if missing:
            kv.promise_tail()
        self.begun = True
        return True

    def let_go(self) -> None:
        """Hold nothing, as before ``begin``."""
        self.kv.release()
        self.begun = False

    @property
    def lacking(self) -> int:
        """Tokens of the document that are to be computed."""
        return len(self.kv.missing - SpanSet.full(self.lead))

    @property
    def complete(self) -> bool:
        return self.begun and not self.kv.missing and not self.kv.pending

    def make_room(self) -> bool:
        """For what is to be computed. A last page that was loaded is shared from now on. False: there is none."""
        if self.complete:
            self.kv.keep_tail()
        return self.kv.reserve(self.kv.missing)

    @property
    def compressing(self) -> bool:
        return False

    @property
    def left(self) -> SpanSet:
        """Positions of ``kv`` that can be computed now."""
        return self.kv.ready(len(self.kv.missing)) if self.begun else SpanSet()

    def reads(self) -> list[Read]:
        """When it is complete: all of it, where the prompt has it."""
        return [PagesRead(self.span, self.lead, [self._pages(group) for group in range(len(self.kv.tables))])]

    def _pages(self, group: int) -> list[PageId]:
        return [page for index, page in self.kv.tables[group].pages() if index >= self.lead // PAGE_TOKENS]
