"""Loads: which of the pages that tiers hold a waiting sequence is to load, so that it need not compute them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from kvloom.engine.kv import SequenceKv
from kvloom.engine.scheduler.coverage import Coverage, cover
from kvloom.engine.tiers import Load, Tiers, Wanted
from kvloom.memory.format import PageFormat
from kvloom.memory.index import Index
from kvloom.memory.table import page_indices, page_span
from kvloom.memory.tier.base import Place, Tier
from kvloom.policy.cost_estimate import CostEstimate
from kvloom.segment import SpanSet

_UNKNOWN_S = 1.0
"""Taken for what computing costs before anything was computed."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """What of a sequence is ``covered`` when its ``loads`` have come, until when positions are ``pending``.
    ``passed_over``: tiers, by name, whose pages are computed instead.
    """

    covered: Coverage
    loads: tuple[Wanted, ...] = ()
    pending: SpanSet = field(default_factory=SpanSet)
    passed_over: Mapping[str, Tier] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Loads:
    """``tiers``: where they are. ``prefill``: what computing costs, as it is known so far."""

    tiers: Tiers
    prefill: CostEstimate

    def choose(self, kv: SequenceKv, index: Index, in_ram: Coverage) -> Chosen:
        """The best of what tiers hold. ``in_ram``: what is covered without."""
        held = [] if not self.tiers.levels or kv.must_compute else self._held(kv, in_ram)
        if not held:
            return Chosen(in_ram)
        everything = cover(kv, index, self.prefill.proportions, held)
        gain = in_ram.missing - everything.missing
        helpful = [wanted for wanted in everything.loads if SpanSet((wanted.span,)) & gain]
        chosen = self.tiers.choose(helpful, gain, self.prefill.cost)
        if not chosen:
            return Chosen(in_ram, passed_over={wanted.tier.name: wanted.tier for wanted in helpful})
        best = everything if len(chosen) == len(held) else cover(kv, index, self.prefill.proportions, chosen)
        loads = tuple(load for load in best.loads if SpanSet((load.span,)) - best.missing)
        return Chosen(best, loads, SpanSet.of([load.span for load in loads]) - best.missing)

    def begin(self, kv: SequenceKv, loads: Sequence[Wanted], pending: SpanSet) -> None:
        """Have pages read to where they were reserved."""
        if loads:
            kv.expect(pending, self._read(kv, loads, pending))

    def load_alone(self, kv: SequenceKv) -> float:
        """Load what tiers hold, and RAM lacks, of a document that is computed alone, if computing takes longer: up to
        its last token, since nobody asks what comes next. Returns the seconds that loading is expected to take.
        """
        held = self._missing_pages(kv)
        chosen = self.tiers.choose(held, SpanSet.of([each.span for each in held]), self.prefill.cost)
        return self._load(kv, held, chosen)

    def load_parts(self, kv: SequenceKv) -> float:
        """Load all that tiers hold, and RAM lacks, of missing parts of a text: none of them is computed there.

        Returns the seconds that this is expected to take.
        """
        held = self._missing_pages(kv)
        return self._load(kv, held, held)

    def load_ahead(self, kv: SequenceKv, fits: Callable[[Counter[PageFormat]], bool]) -> float | None:
        """The same of a text that nobody computes meanwhile: nothing is begun unless tiers hold all that RAM lacks.

        None: there is no room, as ``fits`` says of so many pages more.
        """
        held = self._missing_pages(kv)
        pending = SpanSet.of([each.span for each in held])
        if not held or kv.missing - pending or not self.tiers.choose(held, pending, self.prefill.cost):
            return 0.0
        needs = Counter(kv.tables[each.group].format for each in held if kv.tables[each.group].get(each.index) is None)
        return self._load(kv, held, held) if fits(needs) else None

    def _missing_pages(self, kv: SequenceKv) -> list[Wanted]:
        """Missing pages of which a tier has all layer groups."""
        if not self.tiers.levels or kv.must_compute or not kv.cache.read:
            return []
        lacking = [n for n in page_indices(kv.missing) if page_span(n).start in kv.missing]
        return [each for n in lacking if len(mine := self._pages(kv, n)) == len(kv.tables) for each in mine]

    def _load(self, kv: SequenceKv, held: Sequence[Wanted], chosen: Sequence[Wanted]) -> float:
        pending = SpanSet.of([each.span for each in chosen])
        if chosen and kv.reserve(pending):
            kv.expect_any(pending, self._read(kv, chosen, pending))
            return self.tiers.expected_s(chosen)
        self.tiers.pass_over({each.tier.name: each.tier for each in held}.values())
        return 0.0

    def _read(self, kv: SequenceKv, loads: Sequence[Wanted], pending: SpanSet) -> Load:
        targets = {wanted: page for wanted in loads if (page := kv.tables[wanted.group].get(wanted.index)) is not None}
        cost = self.prefill.cost
        computing_s = sum(cost.block(span.start, len(span)) for span in pending) if cost is not None else _UNKNOWN_S
        return self.tiers.begin(targets, computing_s)

    def _pages(self, kv: SequenceKv, index: int) -> list[Wanted]:
        """Page ``index`` of those layer groups of which a tier has it."""
        key, tokens, found = kv.page_key(index), tuple(kv.names.page_tokens(index)), []
        if key is None:
            return []
        for group, table in enumerate(kv.tables):
            place = Place(key, group)
            if (tier := self.tiers.find(place)) is not None:
                found.append(Wanted(group, index, tier, place, tokens, table.format.page_bytes))
        return found

    def _held(self, kv: SequenceKv, in_ram: Coverage) -> list[Wanted]:
        """All whole pages that RAM lacks, in some layer group, and a tier has. Copies that lost something come second,
        and only if the request takes them.
        """
        held = []
        for n, (key, entry) in enumerate(zip(kv.names.keys, in_ram.entries, strict=True)):
            for group, table in enumerate(kv.tables):
                if entry is not None and entry.pages[group] is not None:
                    continue
                place, tokens = Place(key, group), tuple(kv.names.page_tokens(n))
                if (tier := self.tiers.find(place)) is not None:
                    held.append(Wanted(group, n, tier, place, tokens, table.format.page_bytes))
                elif kv.takes_lossy and (lossy := self.tiers.find_lossy(place)) is not None:
                    tier, place, codec = lossy
                    size = table.format.recoded(codec).page_bytes
                    held.append(Wanted(group, n, tier, place, tokens, size, codec))
        return held
