"""What the pages of a layer group hold of a context: for who scores its entries, and for who moves them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from kvloom.arrays import Bytes, Floats
from kvloom.engine.kv.sequence import SequenceKv
from kvloom.engine.kv.watch import Watch
from kvloom.errors import InternalError
from kvloom.memory.cells import cells
from kvloom.memory.format import PAGE_TOKENS, PageFormat
from kvloom.policy.compression.base import LayerContext
from kvloom.policy.compression.needs import Cached, Given, Need
from kvloom.segment import PageId

_Number = TypeVar("_Number", np.float32, np.uint8)


def head_format(dense: PageFormat) -> PageFormat:
    """Pages for single heads of a layer group."""
    return replace(dense, name="per-head", layers=(), heads=1, labelled=True)


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """The entries below position ``stop`` that a row at ``stop`` sees in a layer group, from its page table.

    Legend: S entries, K KV heads, D head dim, E bytes of an entry as it is stored.
    """

    kv: SequenceKv
    group: int
    stop: int
    first: int
    pages: tuple[PageId, ...]

    @staticmethod
    def below(kv: SequenceKv, group: int, stop: int) -> Stored:
        """Raises InternalError when a page is not there, or when this cannot be done (again)."""
        table = kv.tables[group]
        if table.others or table.start:
            raise InternalError(f"{kv.owner}: group {group} has recoded pages, or lists already")
        first = 0 if table.window is None else max(0, stop - table.window + 1)
        pages = tuple(
            page for index, page in table.pages() if first // PAGE_TOKENS <= index and index * PAGE_TOKENS < stop
        )
        if len(pages) != -(-stop // PAGE_TOKENS) - first // PAGE_TOKENS:
            raise InternalError(f"{kv.owner}: pages of group {group} below {stop} are not there")
        return Stored(kv, group, stop, first, pages)

    @property
    def positions(self) -> npt.NDArray[np.int64]:
        return np.arange(self.first, self.stop)

    def lead(self, kept: npt.NDArray[np.int64]) -> int:
        """Unused entries before those of a (layer, head) on its first page.

        If all are kept, they stay in their places on their pages: then sums over them have the order of dense pages,
        and the same bits.
        """
        return self.first % PAGE_TOKENS if len(kept) == self.stop - self.first else 0

    @property
    def format(self) -> PageFormat:
        return self.kv.tables[self.group].format

    def contexts(self, watch: Watch, needs: frozenset[Need]) -> Iterator[LayerContext]:
        """Every layer of the group, with what a part of the method needs.

        Raises InternalError when something of it was not seen.
        """
        positions_S, tokens_S = self.positions, np.array(self.kv.tokens[self.first : self.stop], np.int64)
        entry_bytes = head_format(self.format).page_bytes // PAGE_TOKENS
        structure_S = None if watch.structure_S is None else watch.structure_S[self.first : self.stop]
        nothing_SK0 = np.zeros((len(tokens_S), self.format.heads, 0), np.float32)
        for slot, layer in enumerate(self.format.layers):
            k_SKD = self._decoded(slot, keys=True) if Cached.KEYS in needs else nothing_SK0
            v_SKD = self._decoded(slot, keys=False) if Cached.VALUES in needs else nothing_SK0
            seen = watch.shape(layer), watch.measured(layer, needs)
            output_HDC = watch.model.output_map(layer) if Given.OUTPUT in needs else None
            known = output_HDC, structure_S
            yield LayerContext(layer, positions_S, tokens_S, k_SKD, v_SKD, entry_bytes, *seen, *known)

    def entries(self, slot: int, head: int) -> tuple[Bytes, Bytes]:
        """(keys_SE, values_SE) of one (layer, head), as they are stored."""
        fmt = self.format
        keys_NB, values_NB = cells(self.kv.ledger.arena.memory, fmt, self.pages, slot, head)
        k_NPE, v_NPE = fmt.numbers.keys.entries(keys_NB, fmt.k_dim), fmt.numbers.values.entries(values_NB, fmt.v_dim)
        return self._of_pages(k_NPE), self._of_pages(v_NPE)

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
