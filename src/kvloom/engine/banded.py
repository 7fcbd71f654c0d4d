"""A banded prefill: a prompt of which only one band of layers has room, computed band after band.

    band      0                1                2                  of contiguous layers (``model.kv_map``)
    step      | computed       | computed       | computed, first token
    arena     [ 0 ]            [ 1 | 0 leaving ][ 2 | 1 leaving ]    pages that the prompt holds
    tier             [ 0 ]            [ 0 | 1 ]        [ 0 | 1 | 2 ]

A band that is complete is published and written to a tier; a page is let go of when the tier has it, and not before, so
its bytes have left before anything else can be in its place. The next band begins at once if it has room beside that,
otherwise when the last page has left: so the prompt holds the pages of at most two bands, beside hidden states.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum

from kvloom.arrays import Floats
from kvloom.engine.kv import SequenceKv
from kvloom.engine.layer_pass import LayerPass
from kvloom.engine.layout import KvLayout
from kvloom.engine.sweep import Sweep
from kvloom.engine.tiers import Level, Offload, Tiers
from kvloom.memory.format import PAGE_TOKENS, PageFormat
from kvloom.memory.ledger import Ledger
from kvloom.memory.table import page_indices
from kvloom.memory.tier.base import Place, StoredPage
from kvloom.policy.events import Hints
from kvloom.segment import PageId, SpanSet


class Progress(Enum):
    """What a banded prefill can do next."""

    GOES_ON = "goes on"  # or waits for a page to leave, or for room
    LEFT = "left"  # all is computed, and the tier has it
    GIVEN_UP = "given up"  # a page does not leave


@dataclass(slots=True, eq=False)
class Leaving:
    """Pages of a band on their way to a tier, held under a name of their own."""

    ledger: Ledger
    owner: str
    pages: list[PageId]
    offload: Offload

    def hold(self, pages: Iterable[PageId], hints: Hints) -> None:
        for page in pages:
            self.pages.append(page)
            self.ledger.hold(page, self.owner, hints)

    def let_go(self) -> None:
        self.offload.cancel()
        self.ledger.release(self.pages, self.owner)

    def abandon(self) -> None:
        """As ``let_go``, after a failure."""
        self.offload.cancel()
        self.ledger.abandon(self.pages, self.owner)


@dataclass(slots=True, eq=False)
class BandedPrefill:
    """Implements ``Layerwise``. ``sweep``: by bands. ``level``: where bands go."""

    layout: KvLayout
    tiers: Tiers
    level: Level
    sweep: Sweep
    ready: int = field(default=0, init=False)
    """Bands that have had room so far."""
    _leaving: list[Leaving] = field(default_factory=list, init=False)

    # -- as Layerwise ----------------------------------------------------------------------------------------------

    @property
    def left(self) -> SpanSet:
        return self.sweep.left if self.sweep.number < self.ready else SpanSet()

    @property
    def share(self) -> float:
        return self.sweep.share

    @property
    def over(self) -> tuple[SpanSet, Floats] | None:
        return self.sweep.over

    @property
    def texts(self) -> Sequence[SequenceKv]:
        return ()

    @property
    def resident(self) -> bool:
        return False

    def next(self, rows: int) -> LayerPass:
        return self.sweep.next(rows)

    def took(self, done: LayerPass, x_TC: Floats) -> None:
        sweep, band = self.sweep, self.sweep.number
        sweep.took(done, x_TC)
        complete = sweep.number > band or sweep.over is not None
        # what comes after this pass is computed in this band; then the rows of the last page, by the time it is back
        seen_from = (len(self.kv.tokens) - 1) // PAGE_TOKENS * PAGE_TOKENS
        self.kv.give_back(done.groups, seen_from if complete else min(seen_from, sweep.left.spans[0].start))
        if complete:
            self._leave(band, done.groups)

    def release(self) -> None:
        while self._leaving:
            self._leaving.pop().let_go()
        self.sweep.release()

    def abandon(self) -> None:
        while self._leaving:
            self._leaving.pop().abandon()
        self.sweep.abandon()

    def holdings(self) -> Iterator[tuple[PageId, str]]:
        yield from self.sweep.holdings()
        for leaving in self._leaving:
            for page in leaving.pages:
                yield page, leaving.owner

    # -- between steps ---------------------------------------------------------------------------------------------

    @property
    def kv(self) -> SequenceKv:
        return self.sweep.kv

    def progress(self, others: int) -> Progress:
        """Take in what has left since the last call, and reserve the next band if its turn has come. ``others``: how
        many sequences run beside this one, and need room to grow.
        """
        while self._leaving and (self._leaving[0].offload.left or self._leaving[0].offload.hopeless):
            leaving = self._leaving.pop(0)
            self.tiers.offloaded(leaving.offload, self.level)
            leaving.let_go()
            if not leaving.offload.left:
                return Progress.GIVEN_UP
            for later in self._leaving[:1]:
                later.offload.turn()
        if self._leaving:
            self._leaving[0].offload.watch()
        if self.over is not None:
            return Progress.GOES_ON if self._leaving else Progress.LEFT
        if self.ready == self.sweep.number and len(self._leaving) < 2 and not self.reserve(others):
            return Progress.GOES_ON if others or self._leaving else Progress.GIVEN_UP
        return Progress.GOES_ON

    def reserve(self, others: int) -> bool:
        """Take all pages of the next band, and leave the others room to grow. False: no room. Layer groups with a
        window take theirs chunk by chunk; for those the room is only checked.
        """
        groups, positions = self._groups(self.ready), self.sweep.positions
        needs: Counter[PageFormat] = Counter(dict.fromkeys(self.layout.formats, others))
        for group in groups:
            lacking = [n for n in page_indices(positions) if self.kv.tables[group].get(n) is None]
            needs[self.layout.formats[group]] += min(len(lacking), self.layout.pages_for(group, len(self.kv.tokens)))
        unwindowed = [group for group in groups if self.layout.windows[group] is None]
        if not self.kv.ledger.fits(needs) or not self.kv.reserve(positions, unwindowed):
            return False
        self.ready += 1
        return True

    # -- inside ----------------------------------------------------------------------------------------------------

    def _groups(self, band: int) -> list[int]:
        layers = self.sweep.ranges[band]
        return [n for n, group in enumerate(self.layout.kv_map.groups) if group.layers[0] in layers]

    def _leave(self, band: int, groups: tuple[int, ...]) -> None:
        """A band is complete: its pages go to the tier. The last page, if it is not full, is computed again."""
        kv, names = self.kv, self.kv.names
        stored, pages = list[StoredPage](), list[PageId]()
        for group, index, page in kv.full_pages(groups):
            data = self.tiers.view(page, self.layout.formats[group].page_bytes)
            place, tokens = Place(names.keys[index], group), tuple(names.page_tokens(index))
            stored.append(StoredPage(place, names.parent_key(index), index * PAGE_TOKENS, tokens, data))
            pages.append(page)
        leaving = Leaving(kv.ledger, f"{kv.owner}/leaving{band}", [], self.tiers.offload(stored, self.level))
        self._leaving.append(leaving)
        leaving.hold(pages, kv.cache.hints)
        kv.give_back(groups)
        self.level.begin(leaving.offload)
