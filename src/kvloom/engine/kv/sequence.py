"""``SequenceKv``: owns all KV of a sequence."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from kvloom.arrays import Floats
from kvloom.attend.lists import MoreLists
from kvloom.engine.cache_params import CacheParams
from kvloom.engine.kv.extents import Extents
from kvloom.engine.kv.holder import Holder
from kvloom.engine.kv.names import PageNames
from kvloom.engine.kv.sharing import Sharing
from kvloom.engine.kv.watch import Watch
from kvloom.engine.kv.windows import Windows
from kvloom.engine.tiers import Load
from kvloom.errors import InternalError
from kvloom.memory.arena import GRAIN_BYTES
from kvloom.memory.format import PAGE_TOKENS, PageFormat
from kvloom.memory.keys import page_key
from kvloom.memory.ledger import Extent, Ledger
from kvloom.memory.table import FULL_MASK, PageTable, page_indices, page_span
from kvloom.policy.actions import Recode
from kvloom.segment import RAM, Context, Missing, PageId, PageKey, Pending, Resident, Segment, Span, SpanSet, Why

if TYPE_CHECKING:
    from kvloom.engine.kv.replacement import Replacement
    from kvloom.engine.kv.results import Result


@dataclass(frozen=True, slots=True)
class Split:
    """Layers below ``layer`` have page tables of their own. ``tables``: their numbers among all, by layer group."""

    layer: int
    tables: Mapping[int, int]


@dataclass(slots=True, eq=False)
class SequenceKv:
    """Where the KV of ``tokens`` is, by layer group: in page tables, and in lists that are read in addition.

        positions   0                             accepted      len(tokens)
                    [ resident | missing | pending | resident | missing )
                                 ^ ``ready``: nothing pending comes before

    A position is resident, missing (it has to be computed) or pending (it is arriving from elsewhere). Its lifecycle:
    ``append``, ``reserve``, ``written``, ``publish``; or ``truncate``, which discards what was not accepted.

    accepted: the number of tokens that are final; only pages filled by them can be found by others. lists: empty, or
    the lists that are read in addition to each group's table. replaced: they are read in place of tables below this
    position. boundary: all before it is compressed before anything after it is computed; 0: nothing. stride: how much
    further the boundary then lies; 0: nothing more is compressed. watch: what is seen of what is computed up to there.
    repeated: before that, so many tokens that only the watch wants to see lie between the boundary and what comes after
    it; positions from there on are too high for as long. scores: by layer group and list, what its entries were worth.
    underway: a compression that has been begun. fuses: what comes after the names' limit is computed over KV of
    documents that were computed elsewhere, and waits until ``begin_fusion`` has put that in place: then it is fused.
    split: some layers have tables of their own. lists_below: what layers below a number read in place of ``lists``, the
    lowest first. takes_lossy: copies in tiers that have lost something may stand for KV
    that is missing: until it is released for the first time, so that what does not fit or does not come is computed.
    keeps_passed: pages that slide out of a window are held until it is released, for rows of others that see them.
    load: what is on its way from tiers. must_compute: a load has failed, and nothing is loaded any more.
    """

    ledger: Ledger
    owner: str
    names: PageNames
    tables: tuple[PageTable, ...]
    cache: CacheParams = field(default_factory=CacheParams)
    watch: Watch | None = None
    stride: int = 0
    fuses: bool = False
    keeps_passed: bool = False
    repeated: int = field(default=0, init=False)
    tokens: list[int] = field(init=False)
    missing: SpanSet = field(init=False)
    pending: SpanSet = field(default=SpanSet(), init=False)
    accepted: int = field(init=False)
    lists: tuple[tuple[MoreLists, ...], ...] = field(default=(), init=False)
    _holder: Holder = field(init=False)
    _sharing: Sharing = field(init=False)
    _extents: Extents = field(init=False)
    replaced: int = field(default=0, init=False)
    boundary: int = field(init=False)
    scores: list[tuple[Floats, ...]] = field(init=False)
    underway: Replacement | None = field(default=None, init=False)
    fused: bool = field(default=False, init=False)
    split: Split | None = field(default=None, init=False)
    lists_below: dict[int, tuple[tuple[MoreLists, ...], ...]] = field(default_factory=dict, init=False)
    load: Load | None = field(default=None, init=False)
    must_compute: bool = field(default=False, init=False)
    takes_lossy: bool = field(init=False)
    _repeats: int = field(default=0, init=False)
    _unpublished: list[tuple[int, int]] = field(default_factory=list, init=False)
    _windows: Windows = field(init=False)
    _read: list[dict[PageId, int]] = field(init=False)

    def __post_init__(self) -> None:
        self.tokens, self.boundary = self.names.tokens, self.names.limit or 0
        self.takes_lossy = self.cache.lossy
        self._begin_to_repeat()
        self.missing, self.accepted = SpanSet.full(len(self.tokens)), self.names.stop
        self.scores, self._read = [()] * len(self.tables), [{} for _ in self.tables]
        self._holder = Holder(self.ledger, self.owner, self.cache)
        self._sharing = Sharing(self._holder, self.names, self.cache)
        self._extents = Extents(self._holder, [()] * len(self.tables))
        self._windows = self._sliding()

    # -- what a step does ------------------------------------------------------------------------------------------

    def append(self, *tokens: int) -> None:
        """Add one or more tokens, whose KV is missing. ``publish`` accepts them."""
        start = len(self.tokens)
        self.tokens.extend(tokens)
        new = SpanSet((Span(start, len(self.tokens)),))
        self.missing = self.missing | new if self.missing else new

    def ready(self, count: int) -> SpanSet:
        """The lowest ``count`` missing positions that no pending position precedes, nor a compression that is due."""
        missing = self.missing
        if self.pending.spans:
            missing = missing & SpanSet.full(self.pending.spans[0].start)
        if self.fuses and not self.fused:
            missing = missing & SpanSet.full(self.boundary)
        elif self.replaced < self.boundary:
            context = missing & SpanSet.full(self.boundary)
            missing = context or missing & SpanSet.full(self.horizon)
        return missing.first(count)

    @property
    def context_due(self) -> bool:
        """Whether all before the boundary, and what is repeated of it now, is complete: then ``repeat_next``, or
        compress it.
        """
        if self.fuses or self.replaced >= self.boundary or len(self.tokens) <= self.boundary:
            return False
        return all(not lacking or lacking.spans[0].start >= self.horizon for lacking in (self.missing, self.pending))

    def repeat_next(self) -> bool:
        """Forget what was repeated, and put the next text there that the watch wants to see. False: that was all."""
        if not self.repeated:
            return False
        assert self.watch is not None
        later = self.tokens[self.boundary + self.repeated :]
        self.truncate(self.boundary)
        self._repeats += 1
        texts = self.watch.repeats[self._repeats : self._repeats + 1]
        self.repeated = sum(map(len, texts))
        self.append(*[token for text in texts for token in text], *later)
        return bool(texts)

    def asks(self, spans: SpanSet) -> bool:
        """Whether the watch wants to know what the model says after the last of these rows, which ``hear`` is told."""
        if self.watch is None or self.repeated >= self.watch.says or self.replaced >= self.boundary:
            return False
        lacking = (self.missing - spans | self.pending) & SpanSet.full(self.horizon)
        return not lacking and spans.spans[-1].stop == self.horizon

    def hear(self, token: int) -> None:
        """The model goes on with ``token``, which is computed next."""
        stop = self.horizon
        later = self.tokens[stop:]
        self.truncate(stop)
        self.append(token, *later)
        self.repeated += 1

    @property
    def horizon(self) -> int:
        """Positions from here on are not computed before those below the boundary are compressed, or fusion begins."""
        if self.fuses and not self.fused:
            return self.boundary
        return self.boundary + self.repeated if self.replaced < self.boundary else len(self.tokens)

    @property
    def watching(self) -> Watch | None:
        """The watch, until nothing more is compressed."""
        return None if self.replaced and self.replaced >= self.boundary else self.watch

    def reserve(self, spans: SpanSet, groups: Iterable[int] | None = None) -> bool:
        """Allocate writable pages for all of ``spans``, in these layer groups or in all.

        False: no room (pages already allocated are kept).
        """
        indices = page_indices(spans)
        for table in self.tables if groups is None else [self.tables[group] for group in groups]:
            for index in indices:
                writable = table.writable
                if not (index < len(writable) and writable[index]) and not self._holder.reserve(table, index, spans):
                    return False
        return True

    def reserve_lossy(self, group: int, index: int, codec: str) -> bool:
        """Allocate a page for a copy that has lost something in ``codec``. False: no room.

        KV computed here from now on depends on what was lost, so it is never published, and neither is the copy.
        """
        self._sharing.exact = False
        table = self.tables[group]
        return self._holder.reserve_recoded(table, index, table.format.recoded(codec))

    def written(self, spans: SpanSet) -> None:
        """The KV of ``spans``, computed or loaded, is in the pages reserved for it. It cannot be found yet."""
        self.missing = self.missing - spans
        if self.pending.spans:
            self.pending = self.pending - spans
        for group, table in enumerate(self.tables):
            for span in spans:
                if full := table.mark(span):
                    self._unpublished += [(group, index) for index in full]

    def written_in(self, groups: Iterable[int], spans: SpanSet) -> None:
        """The KV of ``spans`` in these layer groups is in its pages; the positions are missing until ``written``."""
        for group in groups:
            for span in spans:
                self._unpublished += [(group, index) for index in self.tables[group].mark(span)]

    def give_back(self, groups: Iterable[int], first: int | None = None) -> None:
        """Release the pages of these layer groups, though positions stay missing; or only those that no row from
        position ``first`` on sees. What is full is published before.
        """
        self.publish(self.accepted)
        for group in groups:
            table = self.tables[group]
            if first is None:
                self._holder.give_back(table, [index for index, _ in reversed(list(table.pages()))])
            elif table.window is not None:
                Windows(((table, table.window),)).trim(first, self._holder)

    def full_pages(self, groups: Iterable[int]) -> Iterator[tuple[int, int, PageId]]:
        """(group, index, page) of what is published, by its whole pages, of these layer groups."""
        for group in groups:
            for index, page in self.tables[group].pages():
                if self.tables[group].is_full(index) and page in self.ledger.index:
                    yield group, index, page

    def publish(self, accepted: int) -> None:
        """The first ``accepted`` tokens are final: others may find the pages that they fill.

        Pages outside the window of every later row are released.
        """
        self.accepted = accepted if self.replaced >= self.boundary else min(accepted, self.boundary)
        if self._unpublished:
            self._publish_full()
        if self._windows.tables:
            self._trim_windows()

    def truncate(self, length: int) -> None:
        """Discard all tokens from ``length`` on, and their KV.

        A page that is cut but held or findable by others is copied before it is written to again. What was not accepted
        can always be discarded. Raises InternalError when KV before ``length`` is no longer intact: replaced by lists,
        or released by a window.
        """
        if not 0 <= length <= len(self.tokens) or (length < self.accepted and not self._can_return(length)):
            raise InternalError(f"{self.owner} has {len(self.tokens)} tokens and cannot be truncated to {length}")
        self._sharing.withdraw(self.names.cut(length))
        kept = SpanSet.full(length)
        if self.pending - kept:
            lost = self.pending
            self.stop_loading()
            self._give_back_recoded(lost)
        self.missing, self.pending = self.missing & kept, self.pending & kept
        self.accepted = min(self.accepted, length)
        self._unpublished = [place for place in self._unpublished if (place[1] + 1) * PAGE_TOKENS <= length]
        for table in self.tables:
            beyond = range(-(-length // PAGE_TOKENS), len(table.ids))
            self._holder.give_back(table, [index for index in reversed(beyond) if table.get(index) is not None])
            table.cut(length)

    # -- where it comes from ---------------------------------------------------------------------------------------

    def adopt(self, group: int, index: int, page: PageId, tokens: int = PAGE_TOKENS) -> None:
        """Use a stored page, of which it needs the first ``tokens`` entries, as page ``index`` of a layer group."""
        self._holder.adopt(self.tables[group], index, page, tokens)

    def copy_in(self, group: int, index: int, source: PageId, tokens: int) -> bool:
        """Start page ``index`` as a private copy of the first ``tokens`` entries of ``source``. False: no room.

        The caller holds ``source``: making room for the copy must not drop it.
        """
        return self._holder.copy_in(self.tables[group], index, source, tokens)

    def start(self, missing: SpanSet) -> None:
        """Set what is ``missing`` after adopting and copying, and promise its pages, so that others wait for them."""
        self.missing = missing
        if self.watch is not None:
            self.watch.restart()
        complete = [index for index in page_indices(missing) if all(table.is_full(index) for table in self.tables)]
        self._sharing.promise(index for index in page_indices(missing) if index not in complete)
        if self.replaced < self.boundary and (key := self.left_key) is not None:
            self._sharing.promise_key(key)

    def promise_tail(self) -> None:
        """Promise the unfinished last page as well, for ``keep_tail``."""
        if (key := self.tail_key) is not None:
            self._sharing.promise_key(key)

    def keep_tail(self) -> None:
        """All is there: let others find the unfinished last page."""
        self._publish_tail()
        if (key := self.tail_key) is not None:
            self._sharing.withdraw([key])

    def page_key(self, index: int) -> PageKey | None:
        """Of a page, the unfinished last one too, when the whole ones have their names."""
        return self.names.keys[index] if index < len(self.names.keys) else self.tail_key

    @property
    def tail_key(self) -> PageKey | None:
        """Of the unfinished last page, when the whole ones have their names."""
        index, rest = divmod(self.names.stop, PAGE_TOKENS)
        return page_key(self.names.parent_key(index), self.names.page_tokens(index)) if rest else None

    def adopt_result(self, result: Result) -> None:
        """Read what is left of a context like this one's in place of all before the boundary.

        None of that is missing then, nor is any of it repeated. Nothing is held yet.
        """
        del self.tokens[self.boundary : self.boundary + self.repeated]
        self.repeated, self.replaced, self._sharing.exact = 0, self.boundary, False
        self.missing = SpanSet.full(len(self.tokens)) - SpanSet.full(self.boundary)
        self._extents.adopt(result.extents)
        self.lists = result.lists
        for table in self.tables:
            table.start = self.boundary

    def expect(self, spans: SpanSet, load: Load | None = None) -> None:
        """Mark these missing positions as pending: they will be filled from elsewhere, in pages reserved for them.

        ``written`` marks their arrival, or ``arrived``, page by page, that of a ``load``. Raises InternalError for
        positions that are not missing, and for the last token, which is always computed.
        """
        if len(self.tokens) - 1 in spans:
            raise InternalError(f"the last of {len(self.tokens)} tokens cannot be waited for: what comes next is asked")
        self.expect_any(spans, load)

    def expect_any(self, spans: SpanSet, load: Load | None = None) -> None:
        """As ``expect``, for a text that nobody continues: the last token as well."""
        if spans - self.missing:
            raise InternalError(f"{spans} cannot be waited for: {self.missing} of {len(self.tokens)} are missing")
        self.missing, self.pending, self.load = self.missing - spans, self.pending | spans, load

    def arrived(self, pages: Iterable[tuple[int, int]], waits_for: SpanSet) -> None:
        """These pages (layer group, index) are complete, and final. No more than ``waits_for`` is pending then."""
        everything = SpanSet.full(len(self.tokens))
        for group, index in pages:
            for span in SpanSet((page_span(index),)) & everything:
                self._unpublished += [(group, full) for full in self.tables[group].mark(span)]
        self.pending = self.pending & waits_for
        self.publish(self.accepted)

    def stop_loading(self) -> None:
        """Nothing of a load arrives any more: what is pending is missing again."""
        if self.load is not None:
            self.load.cancel()
            self.load = None
        self._miss(self.pending)

    def give_up(self, spans: SpanSet) -> None:
        """Mark pending positions that will not arrive as missing again."""
        spans = spans & self.pending
        self._miss(spans)
        self._give_back_recoded(spans)

    def fork(self, child: SequenceKv) -> None:
        """Share all KV with the child, which has the same tokens and no KV yet.

        The first to write to a shared page copies it. Positions pending here are missing there.
        """
        if child.fuses and not self.fuses:
            child.compute_all()
        del child.tokens[child.boundary : child.boundary + child.repeated]
        child.repeated = 0
        child.lists, child.scores = self.lists, list(self.scores)
        child._sharing.exact, child.replaced, child.boundary = self._sharing.exact, self.replaced, self.boundary
        if self.fused:
            child._fuse_like(self)
        if (watching := self.watching) is not None:
            child.watch = watching.copy()
        self._extents.share(child._extents)
        self._share_pages(child)

    def exact_copy(self) -> SequenceKv:
        """The same tokens for another owner, which is not going to compress anything. Their KV below the boundary, none
        of which has been replaced, is shared.
        """
        if self.replaced or not self._sharing.exact or self.repeated:
            raise InternalError(f"{self.owner} has no exact KV any more")
        names = PageNames(self.names.root, list(self.tokens))
        tables = tuple(PageTable(table.format, table.window) for table in self.tables)
        cache = replace(self.cache, compression=None, compress_after=None, guard=None)
        copied = SequenceKv(self.ledger, f"{self.owner}/exact", names, tables, cache)
        self._share_pages(copied)
        later = copied.tokens[self.boundary :]
        copied.truncate(self.boundary)
        copied.append(*later)
        return copied

    # -- lists -----------------------------------------------------------------------------------------------------

    def take(self, fmt: PageFormat, count: int) -> Extent | None:
        """Allocate pages for lists that ``replace`` will put in place. None: no room."""
        return self._extents.take(fmt, count)

    def vacate(self, group: int, stop: int) -> None:
        """Give up what a group holds below position ``stop``, pages and lists: it was copied, and ``replace`` is next.

        KV computed from now on depends on what is dropped, so it is never published; the beginning of the page that
        ``stop`` cuts is exact, and is.
        """
        self._end_names(stop)
        self._put_lists(group, ())
        self._extents.put(group, ())
        table, (whole, part) = self.tables[group], divmod(stop, PAGE_TOKENS)
        table.start = stop
        gone = [index for index, _ in table.pages() if index < whole]
        if part and table.get(whole) is not None and not table.filled[whole] >> part:
            gone.append(whole)  # nothing behind the cut is written: that goes to a page of its own
        self._holder.give_back(table, gone)

    def replace(self, group: int, stop: int, lists: Sequence[MoreLists], extents: Sequence[Extent]) -> None:
        """Read ``lists``, of entries below ``stop``, in place of what a group had there, which is vacated.

        ``extents`` were allocated for their pages.
        """
        self.vacate(group, stop)
        self._put_lists(group, lists)
        self._extents.put(group, extents)
        self.replaced = max(self.replaced, stop)

    def publish_lists(self) -> bool:
        """Let others find what is left of the context. False: they may not, or find the same elsewhere."""
        key = self.left_key
        published = self._sharing.publish_lists(self.extents)
        if key is not None:
            self._sharing.withdraw([key])
        return published

    @property
    def left_key(self) -> PageKey | None:
        """Under which what is left of the context can be found, if it ever can. Whole pages must have their names."""
        left = self.names.left()
        return None if left is None else page_key(*left)

    @property
    def extents(self) -> tuple[tuple[Extent, ...], ...]:
        """In which the pages of its lists lie, by layer group."""
        return tuple(self._extents.of_groups)

    def move_boundary(self) -> None:
        """What is before the boundary has been compressed: the next one lies a stride further, if there is one."""
        self.underway = None
        if self.stride and self.watch is not None:
            self.watch = self.watch.of_block(self.boundary, self.boundary + self.stride)
            self.boundary += self.stride
        elif self.watch is not None:
            self.watch.restart()  # what it has seen may take as much memory as KV

    # -- documents that were computed alone ------------------------------------------------------------------------

    @property
    def prefix_done(self) -> bool:
        """Whether it waits for ``begin_fusion``, and for nothing else."""
        return self.fuses and not self.fused and not (self.missing | self.pending) & SpanSet.full(self.boundary)

    def compute_all(self) -> None:
        """Nothing is fused any more. Nothing of it is there."""
        self.fuses, self.names.limit, self.boundary = False, None, 0
        self.accepted = self.names.stop

    def begin_fusion(
        self, gap: Span, pages: Sequence[Mapping[PageId, int]], split: Split | None, lower: Iterable[PageTable]
    ) -> None:
        """From now on what is missing can be computed. KV of ``gap``, the documents, is not in the tables of the layer
        groups, but in lists (``read``), and in ``lower`` tables for the layers below a ``split``.

        ``pages``: by layer group, those of documents, which somebody holds, and the bytes of each; extents by their
        first pages. They are never written to here. KV computed from now on depends on them, so it is never published.
        """
        self._end_names(self.boundary)
        self.fused, self.replaced = True, self.boundary
        for table in self.tables:
            table.gap = gap
            table.reach(len(self.tokens))
        self._hold(pages)
        self._split(split, lower)

    def copy_prefix(self) -> bool:
        """Fill the tables below a split with what the others hold of the prefix. False: no room for all of it yet.

        Pages of few layers begin like those of all layers.
        """
        memory = self.ledger.arena.memory
        for group, number in self.split.tables.items() if self.split is not None else ():
            whole, part = self.tables[group], self.tables[number]
            for index in page_indices(SpanSet.full(self.boundary)):
                mask = FULL_MASK >> max(0, (index + 1) * PAGE_TOKENS - self.boundary)
                if whole.get(index) is None:  # it has slid out of the window of all that follows
                    continue
                if part.get(index) is not None and part.filled[index] & mask == mask:
                    continue
                if not self._holder.reserve(part, index, SpanSet((page_span(index),))):
                    return False
                source, target = (table.ids[index] * GRAIN_BYTES for table in (whole, part))
                size = part.format.page_bytes
                memory[target : target + size] = memory[source : source + size]
                part.filled[index] |= mask
        return True

    def read_no_more(self, group: int, pages: Iterable[PageId]) -> None:
        """Let go of pages of documents of a group, which none of its lists names any more."""
        gone = set(pages)
        self.ledger.release([page for page in self._read[group] if page in gone], self.owner)
        self._read[group] = {page: size for page, size in self._read[group].items() if page not in gone}

    def read_of(self, group: int) -> Collection[PageId]:
        """The pages of documents that it holds in a group."""
        return self._read[group]

    def read(
        self,
        group: int,
        lists: Sequence[MoreLists],
        extents: Sequence[Extent] = (),
        below: Mapping[int, Sequence[MoreLists]] = MappingProxyType({}),
    ) -> None:
        """Read ``lists`` beside a group's table; layers below a number those ``below`` it, the lowest number first.

        ``extents`` were allocated for some of their pages.
        """
        self._put_lists(group, lists)
        before, none = self.lists_below, ((),) * len(self.scores)
        self.lists_below = {stop: _with(before.get(stop, none), group, below[stop]) for stop in below}
        self._extents.put(group, extents)

    def lists_at(self, layer: int, group: int) -> Sequence[MoreLists]:
        """What a layer of a group reads beside tables."""
        for stop, lists in self.lists_below.items():
            if layer < stop:
                return lists[group]
        return self.lists[group] if self.lists else ()

    @property
    def cuts(self) -> tuple[int, ...]:
        """Layers at which it begins to read other tables or lists than below."""
        return () if self.split is None else (self.split.layer, *self.lists_below)

    # -- formats ---------------------------------------------------------------------------------------------------

    def recode(self, group: int, index: int, codec: str) -> bool:
        """Store a full, accepted page in another codec, for this sequence alone. False: no room.

        Others keep and find the original. KV computed here from now on depends on what was lost, so it is never
        published.
        """
        table = self.tables[group]
        page = table.get(index)
        if page is None:
            raise InternalError(f"{self.owner} has no page {index} of group {group} to recode")
        if self.ledger.recode(Recode(page, codec, (self.owner,)), {self.owner: table}) is None:
            return False
        self._sharing.exact = False
        self._sharing.withdraw(self._sharing.promised)
        return True

    # -- the end ---------------------------------------------------------------------------------------------------

    def release(self) -> None:
        """Release everything: all is then missing. The unfinished last page is published, for a follow-up to copy."""
        self._publish_tail()
        self.stop_loading()
        self._sharing.withdraw(self._sharing.promised)
        pages = [page for table in self.tables for _, page in reversed(list(table.pages()))]
        self.ledger.release(pages + self._beside(), self.owner)
        self._forget()

    def abandon(self) -> None:
        """Release everything after a failure, whatever the state. Nothing more is published."""
        self.stop_loading()
        self._sharing.withdraw(self._sharing.promised)
        self.ledger.abandon([page for page, _ in self.holdings()], self.owner)
        self._forget()

    # -- asking ----------------------------------------------------------------------------------------------------

    def holdings(self) -> Iterator[tuple[PageId, str]]:
        """(page, owner) of everything it holds; an extent is given by its first page."""
        for table in self.tables:
            for _, page in table.pages():
                yield page, self.owner
        for page in self._beside():
            yield page, self.owner

    @property
    def held_bytes(self) -> int:
        """Bytes of the pages it holds, shared ones included."""
        read = sum(size for pages in self._read for size in pages.values())
        return sum(table.held_bytes() for table in self.tables) + self._extents.held_bytes + read

    @property
    def lists_bytes(self) -> int:
        """Bytes of the pages of its lists."""
        return self._extents.held_bytes

    def context(self, tier: str = RAM) -> Context:
        """The sequence as segments, for people and policies."""
        missing, pending = self.missing, self.pending
        resident = SpanSet.full(len(self.tokens)) - missing - pending
        segments = [Segment(span, Resident(tier, self.tables[0].format.name)) for span in resident]
        segments += [Segment(span, Missing(Why.NEW)) for span in missing]
        segments += [Segment(span, Pending()) for span in pending]
        return tuple(sorted(segments, key=lambda segment: segment.span))

    # -- inside ----------------------------------------------------------------------------------------------------

    def _miss(self, pending: SpanSet) -> None:
        self.missing, self.pending = self.missing | pending, self.pending - pending

    def _give_back_recoded(self, spans: SpanSet) -> None:
        """Pages for copies that do not come: what is computed does not go to pages of another format."""
        for table in self.tables:
            recoded = [index for indices in table.others.values() for index in indices if not table.is_full(index)]
            self._holder.give_back(table, [index for index in recoded if SpanSet((page_span(index),)) & spans])

    def _begin_to_repeat(self) -> None:
        first = self.watch.repeats[0] if self.watch is not None and self.watch.repeats else ()
        self.tokens[self.boundary : self.boundary + self.repeated] = first
        self.repeated, self._repeats = len(first), 0

    def _share_pages(self, child: SequenceKv) -> None:
        child.missing, child.accepted = self.missing | self.pending, self.accepted
        child.names.keys[:], child.names.contents[:] = self.names.keys, self.names.contents
        child._unpublished = list(self._unpublished)
        for mine, theirs in zip(self.tables, child.tables, strict=True):
            theirs.trimmed, theirs.start, theirs.gap = mine.trimmed, mine.start, mine.gap
            for index, _ in mine.pages():
                child._holder.share(theirs, index, mine)

    def _fuse_like(self, other: SequenceKv) -> None:
        self.fused = True
        self._hold(other._read)
        self._split(other.split, other.tables[len(self.tables) :])
        self.lists_below = dict(other.lists_below)

    def _hold(self, pages: Sequence[Mapping[PageId, int]]) -> None:
        for mine, theirs in zip(self._read, pages, strict=True):
            for page, size in theirs.items():
                mine[page] = size
                self.ledger.hold(page, self.owner, self.cache.hints)

    def _split(self, split: Split | None, tables: Iterable[PageTable]) -> None:
        self.split = split
        self.tables += tuple(PageTable(table.format, table.window) for table in tables)
        self._windows = self._sliding()

    def _put_lists(self, group: int, lists: Iterable[MoreLists]) -> None:
        self.lists = _with(self.lists or ((),) * len(self.scores), group, lists)

    def _publish_full(self) -> None:
        accepted, final, waiting = self.accepted // PAGE_TOKENS, dict[int, None](), []
        for place in self._unpublished:
            group, index = place
            if index >= accepted:
                waiting.append(place)
                continue
            final[index] = None
            self._sharing.publish(self.tables[group], group, index)
            self.tables[group].seal(index)
        self._unpublished = waiting
        for index in final if self._sharing.promised else ():
            written = all(table.get(index) is None or table.is_full(index) for table in self.tables)
            if written and not SpanSet((page_span(index),)) & self.missing:  # nor in layers that come later
                self._sharing.keep(index)

    def _publish_tail(self) -> None:
        """Let others find the unfinished last page, if nothing before it is missing."""
        lacking = self.missing | self.pending
        covered = len(self.tokens) - len(lacking)
        if lacking != SpanSet.full(len(self.tokens)) - SpanSet.full(covered):
            return
        self._publish_part(min(covered, self.accepted))

    def _publish_part(self, stop: int) -> None:
        """Publish what is below ``stop`` of the page that it cuts."""
        index, size = divmod(stop, PAGE_TOKENS)
        mask = (1 << size) - 1
        for group, table in enumerate(self.tables if size else ()):
            page = table.get(index)
            if page is not None and page not in self.ledger.index and table.filled[index] & mask == mask:
                self._sharing.publish(table, group, index, size)

    def _end_names(self, stop: int) -> None:
        """Nothing from ``stop`` on is ever published. The beginning of the page that it cuts is exact, and is."""
        if self._sharing.exact and stop <= self.accepted and self._nothing_after(stop):
            self._publish_part(stop)
        self._sharing.exact = False
        self._sharing.withdraw(self.names.keys)

    def _sliding(self) -> Windows:
        return Windows.of(() if self.keeps_passed else self.tables)

    def _trim_windows(self) -> None:
        """Release pages that no row sees from the first position that may still be computed."""
        lacking = [spans[0].start for spans in (self.missing.spans, self.pending.spans) if spans]
        self._windows.trim(min([self.accepted, *lacking]), self._holder)

    def _nothing_after(self, position: int) -> bool:
        """Whether all from ``position`` on has still to be computed."""
        return not SpanSet.full(len(self.tokens)) - SpanSet.full(position) - self.missing - self.pending

    def _can_return(self, length: int) -> bool:
        """Whether all KV visible to rows from ``length`` on is still held."""
        return length >= self.replaced and self._windows.hold(length, self.missing | self.pending)

    def _beside(self) -> list[PageId]:
        return self._extents.pages() + self._holder.loose + [page for pages in self._read for page in pages]

    def _forget(self) -> None:
        for table in self.tables:
            table.clear()
        self._extents.clear()
        self._holder.loose.clear()
        self._unpublished.clear()
        self._sharing.exact, self.replaced, self.lists, self.underway = True, 0, (), None
        self.takes_lossy = False
        self.tables, self.fused, self.split = self.tables[: len(self.scores)], False, None
        self.lists_below = {}
        self._windows = self._sliding()
        self._read = [{} for _ in self.tables]
        self.boundary, self.scores = self.names.limit or 0, [()] * len(self.tables)
        if self.watch is not None and self.stride:
            self.watch = self.watch.of_block(0, self.boundary)
        elif self.watch is not None:
            self.watch.restart()
        self._begin_to_repeat()
        self.missing, self.pending = SpanSet.full(len(self.tokens)), SpanSet()


def _with(
    before: tuple[tuple[MoreLists, ...], ...], group: int, lists: Iterable[MoreLists]
) -> tuple[tuple[MoreLists, ...], ...]:
    return (*before[:group], tuple(lists), *before[group + 1 :])
