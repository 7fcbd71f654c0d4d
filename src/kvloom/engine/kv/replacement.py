"""Compression carried out: the entries that a method keeps move to pages of single heads, and what they lay in goes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from kvloom.arrays import Floats
from kvloom.engine.kv.lists import Lists
from kvloom.engine.kv.sequence import SequenceKv
from kvloom.engine.kv.stored import Stored
from kvloom.engine.kv.watch import Watch
from kvloom.errors import InternalError
from kvloom.memory.arena import page_stride
from kvloom.memory.format import PAGE_TOKENS, PageFormat, head_format
from kvloom.memory.gathering import Contents, Made
from kvloom.memory.ledger import Extent
from kvloom.policy.compression import Compression
from kvloom.policy.compression.base import Candidates, Choice, Entries, Kept, LayerContext
from kvloom.policy.compression.merging import gone_of


@dataclass(slots=True, eq=False)
class Replacement:
    """What a method does to all that a sequence has below ``stop``, which has been computed: decided, then carried out.

    ``decide`` looks and copies, in small pieces of work, and changes nothing; ``carry_out`` gives up what was copied
    and puts the lists in its place. In between the copy is in memory of its own, as large as the lists: the KV of a
    sequence never takes more than before. ``room``: bytes that all lists may take together; None: the method has a
    ratio. ``threads``: how many cores to use at most. ``kept``: how many entries stay, by layer and KV head.
    """

    kv: SequenceKv
    stop: int
    compression: Compression
    room: int | None = None
    threads: int = 1
    kept: dict[int, tuple[int, ...]] = field(default_factory=dict)
    _work: Iterator[None] = field(init=False)
    _lists: list[tuple[Lists, ...]] = field(default_factory=list, init=False)
    _scores: list[tuple[Floats, ...]] = field(default_factory=list, init=False)
    _taken: list[Extent | None] = field(default_factory=list, init=False)
    _vacated: int = field(default=0, init=False)
    _done: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        watch = self.kv.watch
        if watch is None or watch.needs != self.compression.needs or watch.stop != self.stop:
            raise InternalError(f"{self.kv.owner}: nobody watched below {self.stop} for `{self.compression.name}`")
        self._work = self._decide(watch)

    def decide(self, until: Callable[[], bool] = lambda: False) -> bool:
        """Work until all is decided: True; or, after a piece of work, ``until`` says that it is enough: False.

        Raises RequestError when the method does not answer as it must, and whatever a method of the user's raises.
        """
        return not any(until() for _ in self._work)

    def carry_out(self) -> bool:
        """False: no room for the lists of a group. Can be called again when there is more."""
        for group in range(self._vacated, len(self._lists)):
            self.kv.vacate(group, self.stop)
            self._vacated = group + 1
        while self._done < len(self._lists):
            if not self._put(self._done):
                return False
            self._done += 1
        self.kv.move_boundary()
        return True

    # -- deciding --------------------------------------------------------------------------------------------------

    def _decide(self, watch: Watch) -> Iterator[None]:
        compression = self.compression
        groups = [Stored.below(self.kv, group, self.stop) for group in range(len(self.kv.tables))]
        candidates: list[Candidates] = []
        for stored in groups:
            for slot in range(len(stored.format.layers)):
                context = stored.context(slot, watch, compression.needs_to_choose, self.threads)
                found = stored.candidates(slot, context, compression.scores(context))
                if context.output_HDC is not None:
                    found = compression.critical.weighed(found, stored.values(slot, context), context.output_HDC)
                candidates.append(found)
                del context  # large
                yield
        ratio = None if self.room is None else _ratio(int(self.room * _used(groups)), candidates)
        counts = compression.counts(candidates, watch.model.weights_id, ratio)
        by_layer = {}
        for each, kept_K in zip(candidates, counts, strict=True):
            yield
            by_layer[each.layer] = each, compression.choice(each, kept_K)
        self.kept = {layer: tuple(map(len, by_layer[layer][1].kept)) for layer in sorted(by_layer)}
        for stored in groups:
            yield from self._copy(stored, watch, [by_layer[layer] for layer in stored.format.layers])

    def _copy(self, stored: Stored, watch: Watch, of_slots: Sequence[tuple[Candidates, Choice]]) -> Iterator[None]:
        """The lists of a group, a layer at a time. What is in lists already is copied, unseen by the compactor."""
        fmt, compactor, memory = head_format(stored.format), self.compression.compactor, self.kv.ledger.arena.memory
        lists, scores = Lists(fmt, self.stop), list[Floats]()
        rest = None if compactor.rest is None else Lists(fmt.recoded(compactor.rest))
        for slot, (candidates, choice) in enumerate(of_slots):
            before = [len(positions_S) - len(stored.positions) for positions_S in candidates.positions]
            new = [kept_S[kept_S >= old] - old for kept_S, old in zip(choice.kept, before, strict=True)]
            context = stored.context(slot, watch, compactor.needs, self.threads)
            made = compactor.stored(context, new)
            contents = []
            for head, (kept, seen, entries) in enumerate(zip(choice.kept, new, made, strict=True)):
                _check(kept, len(candidates.scores[head]))
                contents.append(_contents(stored, slot, head, kept, len(kept) - len(seen), entries))
                scores.append(candidates.scores[head][kept])
            lists.add(memory, contents, self.threads)
            if rest is not None:
                rest.add(
                    memory, [_others(stored, slot, context, head, each) for head, each in enumerate(new)], self.threads
                )
            del context  # large
            yield
        self._scores.append(tuple(scores))
        self._lists.append((lists,) if rest is None or not any(rest.pages) else (lists, rest))

    # -- carrying out ----------------------------------------------------------------------------------------------

    def _put(self, group: int) -> bool:
        kv, memory = self.kv, self.kv.ledger.arena.memory
        for lists in self._lists[group][len(self._taken) :]:
            pages = sum(lists.pages)
            extent = kv.take(lists.format, pages) if pages else None
            if pages and extent is None:
                return False
            self._taken.append(extent)
        put = [lists.put(memory, extent) for lists, extent in zip(self._lists[group], self._taken, strict=True)]
        kv.replace(group, self.stop, put, [extent for extent in self._taken if extent is not None])
        kv.scores[group] = self._scores[group]
        self._taken.clear()
        return True


def _used(groups: Sequence[Stored]) -> float:
    """The share of the memory of a page that its entries take."""
    formats = [head_format(stored.format) for stored in groups]
    return min(fmt.page_bytes / page_stride(fmt) for fmt in formats)


def _ratio(room: int, candidates: Sequence[Candidates]) -> float:
    """How much has to go, so that the pages of what stays have room however they are divided among KV heads.

    Every list may end with a page that has one entry, and its share of entries may be rounded up.
    """
    lists = sum(each.entry_bytes * PAGE_TOKENS * len(each.scores) for each in candidates)
    bytes_there = sum(each.entry_bytes * len(scores_S) for each in candidates for scores_S in each.scores)
    return min(1.0, max(0.0, 1.0 - max(0, room - lists) / max(1, bytes_there)))


def _contents(stored: Stored, slot: int, head: int, kept: Kept, old: int, entries: Entries | None) -> Contents:
    """What a list is to hold. The compactor saw what is kept but the first ``old``, and made ``entries`` of it."""
    lead, held = stored.lead(kept), stored.entries(slot, head)[kept]
    if entries is None:
        return Contents(held.cells, held.positions_S, held.bias_S, lead)
    _check_entries(entries, len(kept) - old, stored.format)
    bias_S, changed = np.concatenate([held.bias_S[:old], entries.bias_S]), np.flatnonzero(entries.changed_S)
    made = Made(old + changed, entries.k_SD[changed], entries.v_SD[changed])
    return Contents(held.cells, held.positions_S, bias_S, lead, made)


def _others(stored: Stored, slot: int, context: LayerContext, head: int, kept: Kept) -> Contents:
    """Those that do not stay, to be stored in another codec."""
    gone = gone_of(len(stored.positions), kept)
    held, made = stored.entries(slot, head)[gone], (context.k_SKD[gone, head], context.v_SKD[gone, head])
    return Contents(held.cells, held.positions_S, held.bias_S, made=Made(np.arange(len(gone)), *made))


def _check(kept: npt.NDArray[np.int64], count: int) -> None:
    if len(kept) and not (kept[0] >= 0 and kept[-1] < count and np.all(np.diff(kept) > 0)):
        raise InternalError(f"what is kept must be ascending indices below {count}")


def _check_entries(entries: Entries, count: int, fmt: PageFormat) -> None:
    shapes = (entries.k_SD.shape, entries.v_SD.shape, entries.bias_S.shape, entries.changed_S.shape)
    if shapes != ((count, fmt.k_dim), (count, fmt.v_dim), (count,), (count,)):
        raise InternalError(f"a compactor made entries of shapes {shapes} for {count} that stay")
    if not all(np.isfinite(each).all() for each in (entries.k_SD, entries.v_SD, entries.bias_S)):
        raise InternalError("a compactor made entries that are not finite")
