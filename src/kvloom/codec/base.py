"""What a codec promises.

A *block* is what one head of one layer has in a page, of keys or of values: ``BLOCK_TOKENS`` entries. Blocks are
encoded and decoded as a whole; entries that come one by one are put into one that is there.

Legend: N blocks, S entries, D head dim, B bytes of a block, E bytes of an entry, T queries.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from kvloom.arrays import Bytes, Floats

BLOCK_TOKENS = 16


class Stream(Protocol):
    """How one kind of vectors, keys or values, is stored. Kernels give the same bits."""

    def bytes(self, dim: int) -> int:
        """Of a block."""
        ...

    def encode(self, x_NSD: Floats) -> Bytes:
        """Whole blocks, (N, B)."""
        ...

    def decode(self, blocks_NB: Bytes, dim: int) -> Floats:
        """What stored blocks mean, float32 (N, S, D)."""
        ...

    def put(self, x_SD: Floats, block_B: Bytes, places: Sequence[int]) -> None:
        """Encode some entries into a block that is there; the others stay as they are."""
        ...

    def entries(self, blocks_NB: Bytes, dim: int) -> Bytes:
        """The entries of blocks as they are stored, (N, S, E): to be moved to other blocks without loss."""
        ...

    def put_entries(self, entries_SE: Bytes, block_B: Bytes, dim: int, places: Sequence[int]) -> None:
        """Into a block, such as ``entries`` gives them."""
        ...

    def met(self, q_TD: Floats) -> Floats:
        """Queries as they meet what is stored: scores are their products with decoded keys."""
        ...

    def bound(self, x_SD: Floats) -> Floats:
        """At most so far is every component from itself once it was stored, (S, D). Infinity: out of range."""
        ...


@dataclass(frozen=True, slots=True)
class Codec:
    """A number format of stored KV, by the name that configurations and kernels know it by."""

    name: str
    keys: Stream
    values: Stream


Parts = Sequence[npt.NDArray[Any]]
"""What entries are stored as: arrays (..., S, width), one per field."""


@dataclass(frozen=True, slots=True)
class Entrywise(ABC):
    """A stream whose entries know nothing of each other: each has one or more fields of numbers.

    A block holds one field after the other: of ``transposed`` streams (keys), the first number of all entries, then the
    second one, so that a vector register holds one component of 16 keys and scores need no horizontal sums; of others
    (values), entry by entry.
    """

    transposed: bool

    @abstractmethod
    def fields(self, dim: int) -> Sequence[tuple[type[np.generic], int]]:
        """Type and count of an entry's numbers, field by field."""

    @abstractmethod
    def pack(self, x_SD: Floats) -> Parts: ...

    @abstractmethod
    def unpack(self, parts: Parts) -> Floats: ...

    @abstractmethod
    def bound(self, x_SD: Floats) -> Floats: ...

    def met(self, q_TD: Floats) -> Floats:
        return q_TD

    def bytes(self, dim: int) -> int:
        return BLOCK_TOKENS * sum(np.dtype(of).itemsize * width for of, width in self.fields(dim))

    def encode(self, x_NSD: Floats) -> Bytes:
        blocks_NB = np.empty((len(x_NSD), self.bytes(x_NSD.shape[-1])), np.uint8)
        for view, part in zip(self._views(blocks_NB, x_NSD.shape[-1]), self.pack(x_NSD), strict=True):
            view[...] = part
        return blocks_NB

    def decode(self, blocks_NB: Bytes, dim: int) -> Floats:
        return self.unpack([np.ascontiguousarray(view) for view in self._views(blocks_NB, dim)])

    def put(self, x_SD: Floats, block_B: Bytes, places: Sequence[int]) -> None:
        for view, part in zip(self._views(block_B, x_SD.shape[-1]), self.pack(x_SD), strict=True):
            view[places] = part

    def entries(self, blocks_NB: Bytes, dim: int) -> Bytes:
        return np.concatenate([np.ascontiguousarray(v).view(np.uint8) for v in self._views(blocks_NB, dim)], axis=-1)

    def put_entries(self, entries_SE: Bytes, block_B: Bytes, dim: int, places: Sequence[int]) -> None:
        at = 0
        for view in self._views(block_B, dim):
            width = view.dtype.itemsize * view.shape[-1]
            view[places] = np.ascontiguousarray(entries_SE[:, at : at + width]).view(view.dtype)
            at += width

    def _views(self, blocks: Bytes, dim: int) -> Parts:
        """The fields of blocks (..., B), to read and to write."""
        views, at = [], 0
        for of, width in self.fields(dim):
            stop = at + BLOCK_TOKENS * width * np.dtype(of).itemsize
            shape = (width, BLOCK_TOKENS) if self.transposed else (BLOCK_TOKENS, width)
            view = blocks[..., at:stop].view(of).reshape(*blocks.shape[:-1], *shape)
            views.append(view.swapaxes(-1, -2) if self.transposed else view)
            at = stop
        return views
