"""Compression carried out: the entries that a method keeps move to pages of single heads, the pages they lay in go."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from kvloom.arrays import Bytes, Floats
from kvloom.attend.lists import HeadLists
from kvloom.attend.plan import Labelled
from kvloom.codec.base import Stream
from kvloom.engine.kv.sequence import SequenceKv
from kvloom.engine.kv.stored import Stored, head_format
from kvloom.errors import InternalError
from kvloom.memory.cells import put_cells
from kvloom.memory.format import PAGE_TOKENS, PageFormat
from kvloom.memory.ledger import Extent
from kvloom.memory.table import FULL_MASK
from kvloom.policy.compression import Compression
from kvloom.policy.compression.base import Choice, Compactor, Entries

_Number = TypeVar("_Number", np.float32, np.uint8)


@dataclass(slots=True, eq=False)
class Replacement:
    """What a method does to the KV of a sequence below ``stop``: decided, and carried out group by group.

    ``choices``: by layer group, by layer slot. ``done``: how many groups have their lists. ``peak_bytes``: held by all
    at most meanwhile; of one group at a time both forms are there.
    """

    kv: SequenceKv
    stop: int
    compactor: Compactor
    choices: tuple[tuple[Choice, ...], ...]
    done: int = 0
    peak_bytes: int = 0

    @staticmethod
    def of(kv: SequenceKv, stop: int, compression: Compression) -> Replacement:
        """Look at what is stored and what was seen, and choose; nothing changes. All below ``stop`` has been computed.

        Raises RequestError when the method does not answer as it must, and whatever a method of the user's raises.
        """
        watch, contexts, scores = kv.watch, [], []
        if watch is None or watch.needs != compression.needs or watch.stop != stop:
            raise InternalError(f"{kv.owner}: nobody watched the first {stop} tokens for `{compression.name}`")
        groups = range(len(kv.tables))
        for group in groups:
            for context in Stored.below(kv, group, stop).contexts(watch, compression.needs_to_choose):
                scores.append(compression.scores(context))
                contexts.append(compression.noted(context))
        by_layer = {each.layer: each for each in compression.choose(contexts, scores, watch.model.weights_id)}
        choices = tuple(tuple(by_layer[n] for n in kv.tables[g].format.layers) for g in groups)
        return Replacement(kv, stop, compression.compactor, choices)

    def carry_out(self) -> bool:
        """False: no room for the lists of a group. Can be called again when there is more."""
        while self.done < len(self.choices):
            if not self._replace(self.done):
                return False
            self.done += 1
        return True

    @property
    def kept(self) -> dict[int, tuple[int, ...]]:
        """How many entries stay, by layer and KV head."""
        choices = sorted((each for group in self.choices for each in group), key=lambda each: each.layer)
        return {each.layer: tuple(len(kept) for kept in each.kept) for each in choices}

    # -- inside ----------------------------------------------------------------------------------------------------

    def _replace(self, group: int) -> bool:
        kv, choices = self.kv, self.choices[group]
        stored = Stored.below(kv, group, self.stop)
        fmt = head_format(stored.format)
        sizes = [-(-(stored.lead(kept) + len(kept)) // PAGE_TOKENS) for choice in choices for kept in choice.kept]
        extents: list[Extent] = []
        if any(sizes):
            extent = kv.take(fmt, sum(sizes))
            if extent is None:
                return False
            extents.append(extent)
        self.peak_bytes = max(self.peak_bytes, kv.ledger.held_bytes)
        ids_P = np.array([page for extent in extents for page in extent.pages], np.int32)
        bounds_L1 = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
        masks_P = self._fill(stored, fmt, choices, ids_P, bounds_L1)
        slots, heads = len(choices), stored.format.heads
        kv.replace(group, self.stop, [HeadLists(fmt, Labelled(), slots, heads, ids_P, bounds_L1, masks_P)], extents)
        return True

    def _contents(self, stored: Stored, choices: Sequence[Choice]) -> Iterator[Sequence[Entries | None]]:
        """By layer slot, what is stored for what stays."""
        watch = self.kv.watch
        assert watch is not None
        for context, choice in zip(stored.contexts(watch, self.compactor.needs), choices, strict=True):
            yield self.compactor.stored(context, choice.kept)

    def _fill(
        self,
        stored: Stored,
        fmt: PageFormat,
        choices: Sequence[Choice],
        ids_P: npt.NDArray[np.int32],
        bounds_L1: npt.NDArray[np.int32],
    ) -> npt.NDArray[np.uint16]:
        """Copy what is kept; which entries of each page there are."""
        memory, positions_S = self.kv.ledger.arena.memory, stored.positions
        masks_P = np.full(len(ids_P), FULL_MASK, np.uint16)
        for slot, (choice, contents) in enumerate(zip(choices, self._contents(stored, choices), strict=True)):
            for head, (kept, entries) in enumerate(zip(choice.kept, contents, strict=True)):
                _check(kept, len(positions_S))
                pages = slice(*bounds_L1[slot * stored.format.heads + head :][:2].tolist())
                if not len(kept):
                    continue
                lead, bias_S = stored.lead(kept), np.zeros(len(kept), np.float32)
                keys_SE, values_SE = (each_SE[kept] for each_SE in stored.entries(slot, head))
                if entries is not None:
                    _check_entries(entries, len(kept), fmt)
                    changed_S, bias_S = entries.changed_S, entries.bias_S
                    keys_SE[changed_S] = _encoded(fmt.numbers.keys, entries.k_SD[changed_S])
                    values_SE[changed_S] = _encoded(fmt.numbers.values, entries.v_SD[changed_S])
                parts = [
                    fmt.numbers.keys.blocks(_paged(keys_SE, lead), fmt.k_dim),
                    fmt.numbers.values.blocks(_paged(values_SE, lead), fmt.v_dim),
                    _labels(positions_S[kept], bias_S, lead),
                ]
                put_cells(memory, fmt, ids_P[pages], np.concatenate(parts, axis=1))
                masks_P[pages.stop - 1] >>= -(lead + len(kept)) % PAGE_TOKENS
                masks_P[pages.start] &= FULL_MASK << lead & FULL_MASK
        return masks_P


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
