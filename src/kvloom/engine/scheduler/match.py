"""Look up a sequence in the index: what it can reuse, what is missing and why, and who is already computing it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from kvloom.engine.kv import Result, Results, SequenceKv
from kvloom.engine.request import Sequence
from kvloom.engine.scheduler.coverage import Hit, TailCopy, cover
from kvloom.engine.scheduler.explanation import explain
from kvloom.engine.scheduler.loads import Loads
from kvloom.engine.tiers import Wanted
from kvloom.memory.format import PAGE_TOKENS
from kvloom.memory.index import Index
from kvloom.memory.tier.base import Tier
from kvloom.segment import Miss, PageId, Span, SpanSet, Why


@dataclass(frozen=True, slots=True)
class Match:
    """What a look-up found. ``waits_for``: the sequence that is computing the first missing page, if any, or what is
    left of the same context. ``result``: what is left of it is there. ``loads``: what tiers have of it and are to
    deliver, and ``pending`` the positions that then need not be computed. ``passed_over``: tiers, by name, that have
    something of it all the same.
    """

    missing: SpanSet
    hits: tuple[Hit, ...] = ()
    copies: tuple[TailCopy, ...] = ()
    misses: tuple[Miss, ...] = ()
    waits_for: str | None = None
    result: Result | None = None
    loads: tuple[Wanted, ...] = ()
    pending: SpanSet = field(default_factory=SpanSet)
    passed_over: Mapping[str, Tier] = field(default_factory=dict)

    @property
    def pages(self) -> set[PageId]:
        """All that it would use; of extents the first ones."""
        pages = {hit.page for hit in self.hits} | {page for copy in self.copies for _, page in copy.pages}
        return pages if self.result is None else pages | self.result.pages


def match(sequence: Sequence, index: Index, results: Results, loads: Loads) -> Match:
    """Match all tokens of a waiting sequence."""
    kv = sequence.kv
    kv.names.extend()
    if sequence.wants_prompt_scores or not kv.cache.read:
        everything = Span(0, len(kv.tokens))
        return Match(SpanSet((everything,)), misses=(Miss(everything, Why.NOT_ASKED),))
    if (result := results.find(kv)) is not None:
        after = Span(kv.boundary, len(kv.tokens) - kv.repeated)
        return Match(SpanSet((after,)), misses=(Miss(after, Why.COMPRESSED),), result=result)
    in_ram = cover(kv, index, loads.prefill.proportions)
    if (waits_for := _coming(kv, index, in_ram.missing) or results.coming_from(kv)) is not None:
        return Match(in_ram.missing, waits_for=waits_for)
    chosen = loads.choose(kv, index, in_ram)
    found = chosen.covered
    return Match(
        missing=found.missing,
        hits=found.hits,
        copies=found.copies,
        misses=explain(kv, index, found, loads.tiers),
        loads=chosen.loads,
        pending=chosen.pending,
        passed_over=chosen.passed_over,
    )


def _coming(kv: SequenceKv, index: Index, missing: SpanSet) -> str | None:
    """The other sequence that is computing the page with the first missing position, if there is one."""
    n = missing.spans[0].start // PAGE_TOKENS
    owner = index.coming_from(kv.names.keys[n]) if n < len(kv.names.keys) else None
    return None if owner == kv.owner else owner
