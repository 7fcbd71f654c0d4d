"""The codec interface.

A *block* is the part of a page that belongs to one head of one layer, keys or values: ``BLOCK_TOKENS`` entries. Blocks
are encoded and decoded as a whole; entries that arrive one at a time are put into an existing block.

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
    """How keys or values are stored. Kernels produce the same bits."""

    def bytes(self, dim: int) -> int:
        """Size of a block."""
        ...

    def encode(self, x_NSD: Floats) -> Bytes:
        """Encode whole blocks, (N, B)."""
        ...

    def decode(self, blocks_NB: Bytes, dim: int) -> Floats:
        """Decode blocks to float32 (N, S, D)."""
        ...

    def put(self, x_SD: Floats, block_B: Bytes, places: Sequence[int]) -> None:
        """Encode some entries into an existing block; the others are unchanged."""
        ...

    def entries(self, blocks_NB: Bytes, dim: int) -> Bytes:
        """The encoded entries of blocks, (N, S, E), for lossless moves to other blocks."""
        ...

    def blocks(self, entries_NSE: Bytes, dim: int) -> Bytes:
        """The inverse of ``entries``."""
        ...

    def met(self, q_TD: Floats) -> Floats:
        """Queries as rounded for scoring: scores are their dot products with decoded keys."""
        ...

    def bound(self, x_SD: Floats) -> Floats:
        """Maximum absolute error of every component after storage, (S, D). Infinity: out of range."""
        ...


@dataclass(frozen=True, slots=True)
class Codec:
    """A number format of stored KV, under the name used in configurations and kernels."""

    name: str
    keys: Stream
    values: Stream


Parts = Sequence[npt.NDArray[Any]]
"""Encoded entries: arrays (..., S, width), one per field."""


@dataclass(frozen=True, slots=True)
class Entrywise(ABC):
    """A stream whose entries are encoded independently: each has one or more fields of numbers.

    A block holds one field after the other: of ``transposed`` streams (keys), the first number of all entries, then the
    second one, so that a vector register holds one component of 16 keys and scores need no horizontal sums; of others
    (values), entry by entry.
    """

    transposed: bool

    @abstractmethod
    def fields(self, dim: int) -> Sequence[tuple[type[np.generic], int]]:
        """Type and count of the numbers in each field of an entry."""

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
        self.set_parts(self.pack(x_NSD), blocks_NB, x_NSD.shape[-1], range(BLOCK_TOKENS))
        return blocks_NB

    def decode(self, blocks_NB: Bytes, dim: int) -> Floats:
        return self.unpack(self.parts(blocks_NB, dim))

    def put(self, x_SD: Floats, block_B: Bytes, places: Sequence[int]) -> None:
        self.set_parts(self.pack(x_SD), block_B, x_SD.shape[-1], places)

    def entries(self, blocks_NB: Bytes, dim: int) -> Bytes:
        return np.concatenate([part.view(np.uint8) for part in self.parts(blocks_NB, dim)], axis=-1)

    def blocks(self, entries_NSE: Bytes, dim: int) -> Bytes:
        parts, at = [], 0
        for of, width in self.fields(dim):
            stop = at + np.dtype(of).itemsize * width
            parts.append(np.ascontiguousarray(entries_NSE[..., at:stop]).view(of))
            at = stop
        blocks_NB = np.empty((len(entries_NSE), self.bytes(dim)), np.uint8)
        self.set_parts(parts, blocks_NB, dim, range(BLOCK_TOKENS))
        return blocks_NB

    def parts(self, blocks: Bytes, dim: int) -> Parts:
        """The fields of blocks (..., B), each as (..., S, width)."""
        return [np.ascontiguousarray(view) for view in self._views(blocks, dim)]

    def set_parts(self, parts: Parts, blocks: Bytes, dim: int, places: Sequence[int]) -> None:
        """Write the fields of some entries into blocks (..., B)."""
        for view, part in zip(self._views(blocks, dim), parts, strict=True):
            view[..., list(places), :] = part

    def _views(self, blocks: Bytes, dim: int) -> Parts:
        """Writable views of the fields of blocks (..., B)."""
        views, at = [], 0
        for of, width in self.fields(dim):
            stop = at + BLOCK_TOKENS * width * np.dtype(of).itemsize
            shape = (width, BLOCK_TOKENS) if self.transposed else (BLOCK_TOKENS, width)
            view = blocks[..., at:stop].view(of).reshape(*blocks.shape[:-1], *shape)
            views.append(view.swapaxes(-1, -2) if self.transposed else view)
            at = stop
        return views
