"""Compression carried out: the entries that a method keeps move to pages of single heads, the pages they lay in go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kvloom.arrays import Bytes
from kvloom.attend.lists import HeadLists
from kvloom.attend.plan import Labelled
from kvloom.engine.kv.sequence import SequenceKv
from kvloom.engine.kv.stored import Stored, head_format
from kvloom.errors import InternalError
from kvloom.memory.cells import put_cells
from kvloom.memory.format import PAGE_TOKENS, PageFormat
from kvloom.memory.ledger import Extent
from kvloom.memory.table import FULL_MASK
from kvloom.policy.compression import Compression
from kvloom.policy.compression.base import Gather


@dataclass(slots=True, eq=False)
class Replacement:
    """What a method does to the KV of a sequence below ``stop``: decided, and carried out group by group.

    ``gathers``: by layer group, by layer slot. ``done``: how many groups have their lists. ``peak_bytes``: held by all
    at most meanwhile; of one group at a time both forms are there.
    """

    kv: SequenceKv
    stop: int
    gathers: tuple[tuple[Gather, ...], ...]
    done: int = 0
    peak_bytes: int = 0

    @staticmethod
    def of(kv: SequenceKv, stop: int, compression: Compression) -> Replacement:
        """Look at what is stored and what was seen, and choose; nothing changes. All below ``stop`` has been computed.

        Raises RequestError when the method does not answer as it must, and whatever a method of the user's raises.
        """
        watch, contexts, scores = kv.watch, [], []
        if watch is None or watch.needs != compression.scorer.needs or watch.stop != stop:
            raise InternalError(f"{kv.owner}: nobody watched the first {stop} tokens for `{compression.name}`")
        groups = range(len(kv.tables))
        for group in groups:
            for context in Stored.below(kv, group, stop).contexts(watch):
                scores.append(compression.scores(context))
                contexts.append(context.bare())
        by_layer = {gather.layer: gather for gather in compression.choose(contexts, scores, watch.model.weights_id)}
        return Replacement(kv, stop, tuple(tuple(by_layer[n] for n in kv.tables[g].format.layers) for g in groups))

    def carry_out(self) -> bool:
        """False: no room for the lists of a group. Can be called again when there is more."""
        while self.done < len(self.gathers):
            if not self._replace(self.done):
                return False
            self.done += 1
        return True

    @property
    def kept(self) -> dict[int, tuple[int, ...]]:
        """How many entries stay, by layer and KV head."""
        gathers = sorted((each for group in self.gathers for each in group), key=lambda each: each.layer)
        return {each.layer: tuple(len(kept) for kept in each.kept) for each in gathers}

    # -- inside ----------------------------------------------------------------------------------------------------

    def _replace(self, group: int) -> bool:
        kv, gathers = self.kv, self.gathers[group]
        stored = Stored.below(kv, group, self.stop)
        fmt = head_format(stored.format)
        sizes = [-(-(stored.lead(kept) + len(kept)) // PAGE_TOKENS) for gather in gathers for kept in gather.kept]
        extents: list[Extent] = []
        if any(sizes):
            extent = kv.take(fmt, sum(sizes))
            if extent is None:
                return False
            extents.append(extent)
        self.peak_bytes = max(self.peak_bytes, kv.ledger.held_bytes)
        ids_P = np.array([page for extent in extents for page in extent.pages], np.int32)
        bounds_L1 = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
        masks_P = self._fill(stored, fmt, gathers, ids_P, bounds_L1)
        slots, heads = len(gathers), stored.format.heads
        kv.replace(group, self.stop, [HeadLists(fmt, Labelled(), slots, heads, ids_P, bounds_L1, masks_P)], extents)
        return True

    def _fill(
        self,
        stored: Stored,
        fmt: PageFormat,
        gathers: Sequence[Gather],
        ids_P: npt.NDArray[np.int32],
        bounds_L1: npt.NDArray[np.int32],
    ) -> npt.NDArray[np.uint16]:
        """Copy what is kept; which entries of each page there are."""
        memory, positions_S = self.kv.ledger.arena.memory, stored.positions
        masks_P = np.full(len(ids_P), FULL_MASK, np.uint16)
        for slot, gather in enumerate(gathers):
            for head, kept in enumerate(gather.kept):
                _check(kept, len(positions_S))
                pages = slice(*bounds_L1[slot * stored.format.heads + head :][:2].tolist())
                if not len(kept):
                    continue
                keys_SE, values_SE = stored.entries(slot, head)
                lead = stored.lead(kept)
                parts = [
                    fmt.numbers.keys.blocks(_paged(keys_SE[kept], lead), fmt.k_dim),
                    fmt.numbers.values.blocks(_paged(values_SE[kept], lead), fmt.v_dim),
                    _labels(positions_S[kept], lead),
                ]
                put_cells(memory, fmt, ids_P[pages], np.concatenate(parts, axis=1))
                masks_P[pages.stop - 1] >>= -(lead + len(kept)) % PAGE_TOKENS
                masks_P[pages.start] &= FULL_MASK << lead & FULL_MASK
        return masks_P


def _paged(entries_SE: Bytes, lead: int) -> Bytes:
    """Entries by page (N, PAGE_TOKENS, E) after ``lead`` unused ones; unused entries are zero."""
    count, width = entries_SE.shape
    padded = np.zeros((-(-(lead + count) // PAGE_TOKENS) * PAGE_TOKENS, width), np.uint8)
    padded[lead : lead + count] = entries_SE
    return padded.reshape(-1, PAGE_TOKENS, width)


def _labels(positions_S: npt.NDArray[np.int64], lead: int) -> Bytes:
    """Positions, and no bias, by page: as bytes (N, B)."""
    places_NB = _paged(positions_S.astype(np.int32)[:, None].view(np.uint8), lead).reshape(-1, 4 * PAGE_TOKENS)
    return np.concatenate([places_NB, np.zeros_like(places_NB)], axis=1)


def _check(kept: npt.NDArray[np.int64], count: int) -> None:
    if len(kept) and not (kept[0] >= 0 and kept[-1] < count and np.all(np.diff(kept) > 0)):
        raise InternalError(f"what is kept must be ascending indices below {count}")
