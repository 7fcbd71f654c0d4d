"""Compression carried out: the entries that a method keeps move to pages of single heads, and what they lay in goes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from kvloom.arrays import Bytes, Floats
from kvloom.attend.lists import HeadLists
from kvloom.attend.plan import Labelled
from kvloom.codec.base import Stream
from kvloom.engine.kv.sequence import SequenceKv
from kvloom.engine.kv.stored import Stored
from kvloom.engine.kv.watch import Watch
from kvloom.errors import InternalError
from kvloom.memory.arena import page_stride
from kvloom.memory.cells import put_cells
from kvloom.memory.format import PAGE_TOKENS, PageFormat, head_format
from kvloom.memory.ledger import Extent
from kvloom.memory.table import FULL_MASK
from kvloom.policy.compression import Compression
from kvloom.policy.compression.base import Candidates, Choice, Entries, Kept

_Number = TypeVar("_Number", np.float32, np.uint8)


@dataclass(frozen=True, slots=True, eq=False)
class Lists:
    """What a layer group's lists will be: by list ``cells``, the bytes of its pages (P, B), and ``scores``, what its
    entries are worth. ``masks_P``: as in ``HeadLists``.
    """

    cells: tuple[Bytes, ...]
    masks_P: npt.NDArray[np.uint16]
    scores: tuple[Floats, ...]


@dataclass(slots=True, eq=False)
class Replacement:
    """What a method does to all that a sequence has below ``stop``, which has been computed: decided, then carried out.

    ``decide`` looks and copies, in small pieces of work, and changes nothing; ``carry_out`` gives up what was copied
    and puts the lists in its place. In between the copy is in memory of its own, as large as the lists: the KV of a
    sequence never takes more than before. ``room``: bytes that all lists may take together; None: the method has a
    ratio. ``kept``: how many entries stay, by layer and KV head.
    """

    kv: SequenceKv
    stop: int
    compression: Compression
    room: int | None = None
    kept: dict[int, tuple[int, ...]] = field(default_factory=dict)
    _work: Iterator[None] = field(init=False)
    _lists: list[Lists] = field(default_factory=list, init=False)
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
                context = stored.context(slot, watch, compression.needs_to_choose)
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
        """The lists of a group, a layer at a time. What is in lists already is copied; the compactor sees the rest."""
        needs = self.compression.compactor.needs
        cells: list[Bytes] = []
        masks: list[npt.NDArray[np.uint16]] = []
        scores: list[Floats] = []
        for slot, (candidates, choice) in enumerate(of_slots):
            before = [len(positions_S) - len(stored.positions) for positions_S in candidates.positions]
            new = [kept_S[kept_S >= old] - old for kept_S, old in zip(choice.kept, before, strict=True)]
            contents = self.compression.compactor.stored(stored.context(slot, watch, needs), new)
            for head, (kept, made) in enumerate(zip(choice.kept, contents, strict=True)):
                _check(kept, len(candidates.scores[head]))
                cells_PB, masks_P = _pages(stored, slot, head, kept, made)
                cells.append(cells_PB)
                masks.append(masks_P)
                scores.append(candidates.scores[head][kept])
            yield
        self._lists.append(Lists(tuple(cells), np.concatenate([*masks, *_NO_MASKS]), tuple(scores)))

    # -- carrying out ----------------------------------------------------------------------------------------------

    def _put(self, group: int) -> bool:
        kv, lists, dense = self.kv, self._lists[group], self.kv.tables[group].format
        fmt = head_format(dense)
        bounds_L1 = np.cumsum([0, *map(len, lists.cells)]).astype(np.int32)
        extents: list[Extent] = []
        if bounds_L1[-1]:
            extent = kv.take(fmt, int(bounds_L1[-1]))
            if extent is None:
                return False
            extents.append(extent)
        ids_P = np.array([page for extent in extents for page in extent.pages], np.int32)
        for cells_PB, start, stop in zip(lists.cells, bounds_L1, bounds_L1[1:], strict=False):
            put_cells(kv.ledger.arena.memory, fmt, ids_P[start:stop], cells_PB)
        slots, heads = len(dense.layers), dense.heads
        of_heads = HeadLists(fmt, Labelled(), slots, heads, ids_P, bounds_L1, lists.masks_P)
        kv.replace(group, self.stop, [of_heads], extents)
        kv.scores[group] = lists.scores
        return True


_NO_MASKS = (np.zeros(0, np.uint16),)


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


def _pages(
    stored: Stored, slot: int, head: int, kept: Kept, made: Entries | None
) -> tuple[Bytes, npt.NDArray[np.uint16]]:
    """Pages of one list, (P, B), and which of their entries there are."""
    fmt = head_format(stored.format)
    if not len(kept):
        return np.zeros((0, fmt.cell_bytes), np.uint8), np.zeros(0, np.uint16)
    lead, held = stored.lead(kept), stored.entries(slot, head)[kept]
    if made is not None:
        new = slice(len(kept) - len(made.bias_S), None)
        _check_entries(made, len(kept[new]), fmt)
        changed_S = made.changed_S
        held.bias_S[new] = made.bias_S
        held.keys_SE[new][changed_S] = _encoded(fmt.numbers.keys, made.k_SD[changed_S])
        held.values_SE[new][changed_S] = _encoded(fmt.numbers.values, made.v_SD[changed_S])
    parts = [
        fmt.numbers.keys.blocks(_paged(held.keys_SE, lead), fmt.k_dim),
        fmt.numbers.values.blocks(_paged(held.values_SE, lead), fmt.v_dim),
        _labels(held.positions_S, held.bias_S, lead),
    ]
    cells_PB = np.concatenate(parts, axis=1)
    masks_P = np.full(len(cells_PB), FULL_MASK, np.uint16)
    masks_P[-1] >>= -(lead + len(kept)) % PAGE_TOKENS
    masks_P[0] &= FULL_MASK << lead & FULL_MASK
    return cells_PB, masks_P


def _paged(entries_SE: npt.NDArray[_Number], lead: int) -> npt.NDArray[_Number]:
    """Entries by page (N, PAGE_TOKENS, E) after ``lead`` unused ones; unused entries are zero."""
    count, width = entries_SE.shape
    padded = np.zeros((-(-(lead + count) // PAGE_TOKENS) * PAGE_TOKENS, width), entries_SE.dtype)
    padded[lead : lead + count] = entries_SE
    return padded.reshape(-1, PAGE_TOKENS, width)


def _encoded(stream: Stream, x_SD: Floats) -> Bytes:
    """As they are stored, (S, E)."""
    blocks_NB = stream.encode(_paged(x_SD, 0))
    entries_NSE = stream.entries(blocks_NB, x_SD.shape[1])
    return entries_NSE.reshape(-1, entries_NSE.shape[-1])[: len(x_SD)]


def _labels(positions_S: npt.NDArray[np.int64], bias_S: Floats, lead: int) -> Bytes:
    """Positions and biases by page: as bytes (N, B)."""
    labels = positions_S.astype(np.int32), bias_S.astype(np.float32)
    return np.concatenate(
        [_paged(each[:, None].view(np.uint8), lead).reshape(-1, 4 * PAGE_TOKENS) for each in labels], axis=1
    )


def _check(kept: npt.NDArray[np.int64], count: int) -> None:
    if len(kept) and not (kept[0] >= 0 and kept[-1] < count and np.all(np.diff(kept) > 0)):
        raise InternalError(f"what is kept must be ascending indices below {count}")


def _check_entries(entries: Entries, count: int, fmt: PageFormat) -> None:
    shapes = (entries.k_SD.shape, entries.v_SD.shape, entries.bias_S.shape, entries.changed_S.shape)
    if shapes != ((count, fmt.k_dim), (count, fmt.v_dim), (count,), (count,)):
        raise InternalError(f"a compactor made entries of shapes {shapes} for {count} that stay")
    if not all(np.isfinite(each).all() for each in (entries.k_SD, entries.v_SD, entries.bias_S)):
        raise InternalError("a compactor made entries that are not finite")
