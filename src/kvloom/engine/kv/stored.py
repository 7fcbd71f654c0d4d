"""What a sequence holds of a context in a layer group: for who scores its entries, and for who moves them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from kvloom.arrays import Bytes, Floats
from kvloom.attend.lists import HeadLists
from kvloom.engine.kv.sequence import SequenceKv
from kvloom.engine.kv.watch import Watch
from kvloom.errors import InternalError
from kvloom.memory.cells import all_labels, cells, entries
from kvloom.memory.format import PAGE_TOKENS, PageFormat, head_format
from kvloom.policy.compression.base import Candidates, LayerContext
from kvloom.policy.compression.needs import Cached, Given, Need
from kvloom.segment import PageId

_Number = TypeVar("_Number", np.float32, np.uint8)


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """Entries of one (layer, KV head) in order of position: as they are stored, and their labels."""

    keys_SE: Bytes
    values_SE: Bytes
    positions_S: npt.NDArray[np.int64]
    bias_S: Floats

    def after(self, before: Held) -> Held:
        pairs = [(getattr(before, name), getattr(self, name)) for name in self.__slots__]
        return Held(*(np.concatenate(pair) for pair in pairs))

    def __getitem__(self, which: npt.NDArray[np.int64]) -> Held:
        return Held(*(getattr(self, name)[which] for name in self.__slots__))


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """The entries that a row at ``stop`` sees in a layer group: the earlier ones from ``lists``, where a compression
    has left some, and those from ``first`` on from its page table, of which nothing has been removed.

    Legend: S entries, K KV heads, D head dim, E bytes of an entry as it is stored.
    """

    kv: SequenceKv
    group: int
    stop: int
    first: int
    pages: tuple[PageId, ...]
    lists: HeadLists | None

    @staticmethod
    def below(kv: SequenceKv, group: int, stop: int) -> Stored:
        """Raises InternalError when something is not there, or when it cannot be moved."""
        table, lists = kv.tables[group], kv.lists[group] if kv.lists else ()
        of_heads = next((each for each in lists if isinstance(each, HeadLists) and each.stop == table.start), None)
        if table.others or len(lists) != (of_heads is not None):
            raise InternalError(f"{kv.owner}: group {group} has recoded pages, or lists that cannot be moved")
        first = max(table.start, _first_seen(table.window, stop), table.trimmed * PAGE_TOKENS)
        pages = tuple(
            page for index, page in table.pages() if first // PAGE_TOKENS <= index and index * PAGE_TOKENS < stop
        )
        if len(pages) != -(-stop // PAGE_TOKENS) - first // PAGE_TOKENS:
            raise InternalError(f"{kv.owner}: pages of group {group} below {stop} are not there")
        return Stored(kv, group, stop, first, pages, of_heads)

    @property
    def positions(self) -> npt.NDArray[np.int64]:
        """Those in the page table."""
        return np.arange(self.first, self.stop)

    def lead(self, kept: npt.NDArray[np.int64]) -> int:
        """Unused entries before those of a (layer, head) on its first page.

        If all are kept, they stay in their places on their pages: then sums over them have the order of dense pages,
        and the same bits.
        """
        return self.first % PAGE_TOKENS if self.lists is None and len(kept) == self.stop - self.first else 0

    @property
    def format(self) -> PageFormat:
        return self.kv.tables[self.group].format

    @property
    def whole(self) -> int:
        """How many entries a KV head would have of which nothing had been removed."""
        return self.stop - _first_seen(self.kv.tables[self.group].window, self.stop)

    def context(self, slot: int, watch: Watch, needs: frozenset[Need]) -> LayerContext:
        """What the page table has of a layer, with what a part of the method needs.

        Raises InternalError when something of it was not seen.
        """
        layer, positions_S = self.format.layers[slot], self.positions
        tokens_S = np.array(self.kv.tokens[self.first : self.stop], np.int64)
        entry_bytes = head_format(self.format).page_bytes // PAGE_TOKENS
        nothing_SK0 = np.zeros((len(tokens_S), self.format.heads, 0), np.float32)
        k_SKD = self._decoded(slot, keys=True) if Cached.KEYS in needs else nothing_SK0
        v_SKD = self._decoded(slot, keys=False) if Cached.VALUES in needs else nothing_SK0
        seen = watch.shape(layer), watch.measured(layer, needs)
        output_HDC = watch.model.output_map(layer) if Given.OUTPUT in needs else None
        structure_S = watch.structure(self.kv.tokens)[self.first :] if Given.STRUCTURE in needs else None
        known = output_HDC, structure_S
        return LayerContext(layer, positions_S, tokens_S, k_SKD, v_SKD, entry_bytes, *seen, *known)

    def contexts(self, watch: Watch, needs: frozenset[Need]) -> Iterator[LayerContext]:
        """Of every layer of the group."""
        for slot in range(len(self.format.layers)):
            yield self.context(slot, watch, needs)

    def candidates(self, slot: int, context: LayerContext, scores_KS: Floats) -> Candidates:
        """All entries of a layer, given the scores of those in the page table."""
        new = context.candidates(scores_KS)
        if self.lists is None:
            return new
        before = [self._listed(slot, head) for head in range(self.format.heads)]
        known = self.kv.scores[self.group][slot * self.format.heads :]
        return replace(
            new,
            whole=self.whole,
            positions=tuple(np.concatenate([old[0], these]) for old, these in zip(before, new.positions, strict=True)),
            scores=tuple(
                np.concatenate([_lasting(old[0], scores_S[old[1]]), these])
                for old, scores_S, these in zip(before, known, new.scores, strict=False)
            ),
        )

    def values(self, slot: int, context: LayerContext) -> list[Floats]:
        """By KV head (S, D), in the order of ``candidates``; of the page table what ``context`` has."""
        new = list(context.v_SKD.transpose(1, 0, 2))
        if self.lists is None:
            return new
        return [np.concatenate([self._listed_values(slot, head), v_SD]) for head, v_SD in enumerate(new)]

    def entries(self, slot: int, head: int) -> Held:
        """Of one (layer, head), in the order of ``candidates``."""
        keys_NSE, values_NSE = entries(self.kv.ledger.arena.memory, self.format, self.pages, slot, head)
        none_S = np.zeros(self.stop - self.first, np.float32)
        new = Held(self._of_pages(keys_NSE), self._of_pages(values_NSE), self.positions, none_S)
        return new if self.lists is None else new.after(self._moved(slot, head))

    # -- inside ----------------------------------------------------------------------------------------------------

    def _moved(self, slot: int, head: int) -> Held:
        """What the lists have."""
        assert self.lists is not None
        memory, (ids_P, present_E) = self.kv.ledger.arena.memory, self._of_list(slot, head)
        keys_PSE, values_PSE = entries(memory, self.lists.format, ids_P, 0, 0)
        positions_PS, bias_PS = all_labels(memory, self.lists.format, ids_P)
        held = Held(
            keys_PSE.reshape(-1, keys_PSE.shape[-1])[present_E],
            values_PSE.reshape(-1, values_PSE.shape[-1])[present_E],
            positions_PS.reshape(-1)[present_E].astype(np.int64),
            bias_PS.reshape(-1)[present_E],
        )
        return held[self._listed(slot, head)[1]]

    def _listed_values(self, slot: int, head: int) -> Floats:
        """Decoded, of what the lists have and a row still sees."""
        assert self.lists is not None
        fmt, (ids_P, present_E) = self.lists.format, self._of_list(slot, head)
        v_PSD = fmt.numbers.values.decode(cells(self.kv.ledger.arena.memory, fmt, ids_P, 0, 0)[1], fmt.v_dim)
        return v_PSD.reshape(-1, fmt.v_dim)[present_E][self._listed(slot, head)[1]]

    def _listed(self, slot: int, head: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Positions of what the lists have and a row still sees, and which of the list's entries that are."""
        assert self.lists is not None
        ids_P, present_E = self._of_list(slot, head)
        positions_PS, _ = all_labels(self.kv.ledger.arena.memory, self.lists.format, ids_P)
        positions_S = positions_PS.reshape(-1)[present_E].astype(np.int64)
        seen_S = np.flatnonzero(positions_S >= _first_seen(self.kv.tables[self.group].window, self.stop))
        return positions_S[seen_S], seen_S

    def _of_list(self, slot: int, head: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
        """Pages of a (layer, head), and which of their entries are there."""
        lists = self.lists
        assert lists is not None
        pages = slice(*lists.bounds_L1[slot * lists.heads + head :][:2].tolist())
        ids_P = lists.page_ids_P[pages]
        if lists.masks_P is None:
            return ids_P, np.ones(len(ids_P) * PAGE_TOKENS, np.bool_)
        return ids_P, (lists.masks_P[pages, None] >> np.arange(PAGE_TOKENS) & 1).astype(np.bool_).reshape(-1)

    def _decoded(self, slot: int, keys: bool) -> Floats:
        fmt, memory = self.format, self.kv.ledger.arena.memory
        stream, dim = (fmt.numbers.keys, fmt.k_dim) if keys else (fmt.numbers.values, fmt.v_dim)
        heads = []
        with np.errstate(all="ignore"):  # what is not written yet of the last page may be any number
            for head in range(fmt.heads):
                blocks_NB = cells(memory, fmt, self.pages, slot, head)[0 if keys else 1]
                heads.append(self._of_pages(stream.decode(blocks_NB, dim)))
        return np.stack(heads, axis=1)

    def _of_pages(self, x_NPD: npt.NDArray[_Number]) -> npt.NDArray[_Number]:
        """From entries by page to entries."""
        start = self.first % PAGE_TOKENS
        return x_NPD.reshape(-1, x_NPD.shape[-1])[start : start + self.stop - self.first]


def _first_seen(window: int | None, stop: int) -> int:
    return 0 if window is None else max(0, stop - window + 1)


def _lasting(positions_S: npt.NDArray[np.int64], scores_S: Floats) -> Floats:
    """What entries of a list are worth from now on. A scorer may have required the first and the last ones of what it
    saw: those that were the last ones then are now worth as much as the best of the others.
    """
    required_S = np.isposinf(scores_S)
    first_S = np.logical_and.accumulate(required_S & (positions_S == np.arange(len(positions_S))))
    best = scores_S[~required_S].max(initial=-np.inf)
    return np.where(required_S & ~first_S, best if np.isfinite(best) else np.float32(0), scores_S)
