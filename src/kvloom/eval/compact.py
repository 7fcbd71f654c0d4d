"""Compaction: the entries that a policy keeps move to pages of single heads, at their old positions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kvloom.arrays import Bytes, Floats
from kvloom.attend.lists import HeadLists
from kvloom.attend.plan import Ints, Labelled
from kvloom.engine.kv import SequenceKv
from kvloom.errors import EvalError
from kvloom.eval.policy import KeepPolicy, Kept, LayerContext
from kvloom.memory.cells import cell, labels
from kvloom.memory.format import PAGE_TOKENS, PageFormat
from kvloom.memory.ledger import Extent
from kvloom.segment import PageId

Positions = np.ndarray[tuple[int], np.dtype[np.int64]]


def head_format(dense: PageFormat) -> PageFormat:
    """Pages for single heads of a layer group."""
    return PageFormat("per-head", (), 1, dense.k_dim, dense.v_dim, dense.codec, labelled=True)


@dataclass(frozen=True, slots=True)
class Compactor:
    """Moves what a policy keeps of a sequence to pages of single heads: all of a layer group to one extent."""

    kv: SequenceKv

    def compact(self, group: int, stop: int, policy: KeepPolicy) -> tuple[HeadLists, list[Extent]]:
        """Copy what the policy keeps of the pages below page ``stop`` of a layer group, which stay.

        The entries are copied as they are stored, so that what is kept loses nothing. Raises EvalError when the policy
        answers what is not there.
        """
        table = self.kv.tables[group]
        dense, fmt = table.format, head_format(table.format)
        pages = [(index, page) for index, page in table.pages() if index < stop]
        positions_S = np.concatenate(
            [np.arange(index * PAGE_TOKENS, (index + 1) * PAGE_TOKENS) for index, _ in pages] or [np.zeros(0, np.int64)]
        )
        lists = self._chosen(dense, pages, positions_S, policy)
        sizes = [-(-len(chosen) // PAGE_TOKENS) for _, _, chosen in lists]
        extents = self._take(fmt, sum(sizes))
        ids = [page for extent in extents for page in extent.pages]
        masks: list[int] = []
        for slot, head, chosen in lists:
            keys_SE, values_SE = self._stored(dense, pages, slot, head)
            for at in range(0, len(chosen), PAGE_TOKENS):
                piece = chosen[at : at + PAGE_TOKENS]
                self._fill(fmt, ids[len(masks)], keys_SE[piece], values_SE[piece], positions_S[piece])
                masks.append((1 << len(piece)) - 1)
        starts = np.concatenate([[0], np.cumsum(sizes)])
        masks_P = np.array(masks, np.uint16)
        kept = HeadLists(fmt, Labelled(), len(dense.layers), dense.heads, _int32(ids), _int32(starts), masks_P)
        return kept, extents

    def _chosen(
        self, dense: PageFormat, pages: list[tuple[int, PageId]], positions_S: Positions, policy: KeepPolicy
    ) -> list[tuple[int, int, Kept]]:
        """(layer slot, head, what the policy keeps of it), in the order of a plan's lists."""
        lists: list[tuple[int, int, Kept]] = []
        for slot, layer in enumerate(dense.layers):
            known = [self._known(dense, pages, slot, head) for head in range(dense.heads)]
            k_SKD, v_SKD = (np.stack([of_head[n] for of_head in known], axis=1) for n in (0, 1))
            kept = policy.keep(LayerContext(layer, positions_S, k_SKD, v_SKD))
            _check(policy, kept, dense.heads, len(positions_S))
            lists += [(slot, head, chosen) for head, chosen in enumerate(kept)]
        return lists

    def _take(self, fmt: PageFormat, count: int) -> list[Extent]:
        if not count:
            return []
        extent = self.kv.take(fmt, count)
        if extent is None:
            raise EvalError("no room for compacted KV")
        return [extent]

    def _known(self, fmt: PageFormat, pages: list[tuple[int, PageId]], slot: int, head: int) -> tuple[Floats, Floats]:
        """(k_SD, v_SD) of one (layer, head): what is stored means."""
        keys_NB, values_NB = self._blocks(fmt, pages, slot, head)
        k_NSD, v_NSD = fmt.numbers.keys.decode(keys_NB, fmt.k_dim), fmt.numbers.values.decode(values_NB, fmt.v_dim)
        return k_NSD.reshape(-1, fmt.k_dim), v_NSD.reshape(-1, fmt.v_dim)

    def _stored(self, fmt: PageFormat, pages: list[tuple[int, PageId]], slot: int, head: int) -> tuple[Bytes, Bytes]:
        """(keys_SE, values_SE) of one (layer, head), as they are stored."""
        keys_NB, values_NB = self._blocks(fmt, pages, slot, head)
        k_NSE, v_NSE = fmt.numbers.keys.entries(keys_NB, fmt.k_dim), fmt.numbers.values.entries(values_NB, fmt.v_dim)
        return k_NSE.reshape(-1, k_NSE.shape[-1]), v_NSE.reshape(-1, v_NSE.shape[-1])

    def _blocks(self, fmt: PageFormat, pages: list[tuple[int, PageId]], slot: int, head: int) -> tuple[Bytes, Bytes]:
        cells = [cell(self.kv.ledger.arena.memory, fmt, page, slot, head) for _, page in pages]
        keys_NB, values_NB = (
            np.empty((len(cells), fmt.k_bytes), np.uint8),
            np.empty((len(cells), fmt.v_bytes), np.uint8),
        )
        for n, (keys_B, values_B) in enumerate(cells):
            keys_NB[n], values_NB[n] = keys_B, values_B
        return keys_NB, values_NB

    def _fill(self, fmt: PageFormat, page: int, keys_SE: Bytes, values_SE: Bytes, positions_S: Positions) -> None:
        count, memory = len(positions_S), self.kv.ledger.arena.memory
        keys_B, values_B = cell(memory, fmt, page, 0, 0)
        fmt.numbers.keys.put_entries(keys_SE, keys_B, fmt.k_dim, range(count))
        fmt.numbers.values.put_entries(values_SE, values_B, fmt.v_dim, range(count))
        places, bias = labels(memory, fmt, page)
        places[:count], bias[:count] = positions_S, 0.0


def _check(policy: KeepPolicy, kept: Sequence[Kept], heads: int, count: int) -> None:
    fits = len(kept) == heads and all(
        np.all(np.diff(chosen) > 0) and (len(chosen) == 0 or (chosen[0] >= 0 and chosen[-1] < count)) for chosen in kept
    )
    if not fits:
        raise EvalError(f"policy `{policy.name}` must keep ascending indices below {count} for each of {heads} heads")


def _int32(values: Sequence[int] | np.ndarray[tuple[int], np.dtype[np.int64]]) -> Ints:
    return np.asarray(values, dtype=np.int32).reshape(-1)
