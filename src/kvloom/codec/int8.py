"""Keys and values as 8-bit integers, with a step of their own for each key and each value of a head.

A step is a 127th of the vector's largest component, so a component loses at most half of that. Queries are rounded as
for int16 keys: scores are exact sums of integers, and only what is stored is rounded coarsely.

Why a step per token: a token is rounded when it is written and never again, so that its bits depend on it alone; and
its step is taken out of the sum over components (keys) or goes into its weight (values).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from kvloom.arrays import Bytes, Floats
from kvloom.codec.base import BLOCK_TOKENS, Codec, Entrywise, Parts
from kvloom.codec.int16 import rounded

_SMALL, _SMALL_STEP = np.float32(2.0**-100), np.float32(2.0**-106)
"""Vectors without larger components share a step: a smaller one would lose bits itself."""

_LARGE = np.float32(3.4e38)


class Int8Stream(Entrywise):
    """Stored are bytes and the step. A vector that is not finite becomes NaN as a whole."""

    __slots__ = ()

    def bound(self, x_SD: Floats) -> Floats:
        largest_S1 = np.abs(x_SD).max(axis=-1, keepdims=True)
        half_S1 = np.maximum(largest_S1 * np.float32(1 / 254 + 2**-22), _SMALL_STEP / 2)
        return np.broadcast_to(np.where(largest_S1 < _LARGE, half_S1, np.inf), x_SD.shape).astype(np.float32)


class Int8Keys(Int8Stream):
    """Components lie in fours, as words; bytes count from -128."""

    __slots__ = ()

    def fields(self, dim: int) -> Sequence[tuple[type[np.generic], int]]:
        return [(np.uint32, dim // 4), (np.float32, 1)]

    def pack(self, x_SD: Floats) -> Parts:
        bytes_SD, steps_S1 = _in_steps(x_SD)
        return [np.ascontiguousarray(bytes_SD.view(np.uint8) ^ 128).view(np.uint32), steps_S1]

    def unpack(self, parts: Parts) -> Floats:
        words_SW, steps_S1 = parts
        return (words_SW.view(np.uint8) ^ 128).view(np.int8).astype(np.float32) * steps_S1

    def met(self, q_TD: Floats) -> Floats:
        return rounded(q_TD)


class Int8Values(Int8Stream):
    """Entries lie in fours: of the first four entries the first component, then the second one, and so on."""

    __slots__ = ()

    def fields(self, dim: int) -> Sequence[tuple[type[np.generic], int]]:
        return [(np.int8, dim), (np.float32, 1)]

    def pack(self, x_SD: Floats) -> Parts:
        return _in_steps(x_SD)

    def unpack(self, parts: Parts) -> Floats:
        bytes_SD, steps_S1 = parts
        return bytes_SD.astype(np.float32) * steps_S1

    def parts(self, blocks: Bytes, dim: int) -> Parts:
        bytes_B, steps_S1 = self._bytes_and_steps(blocks, dim)
        return [bytes_B[..., _in_fours(dim)], np.ascontiguousarray(steps_S1)]

    def set_parts(self, parts: Parts, blocks: Bytes, dim: int, places: Sequence[int]) -> None:
        bytes_B, steps_S1 = self._bytes_and_steps(blocks, dim)
        bytes_B[..., _in_fours(dim)[list(places)]], steps_S1[..., list(places), :] = parts

    def _bytes_and_steps(self, blocks: Bytes, dim: int) -> Parts:
        _, steps_S1 = self._views(blocks, dim)
        return [blocks[..., : BLOCK_TOKENS * dim].view(np.int8), steps_S1]


INT8 = Codec("int8", keys=Int8Keys(transposed=True), values=Int8Values(transposed=False))


def _in_steps(x_SD: Floats) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    finite_S1 = np.isfinite(x_SD).all(axis=-1, keepdims=True)
    known_SD = np.where(finite_S1, x_SD, np.float32(0))
    largest_S1 = np.abs(known_SD).max(axis=-1, keepdims=True)
    small_S1 = largest_S1 < _SMALL
    safe_S1 = np.where(small_S1, np.float32(1), largest_S1)
    steps_S1 = np.where(small_S1, _SMALL_STEP, safe_S1 / np.float32(127))
    inverse_S1 = np.where(small_S1, 1 / _SMALL_STEP, np.float32(127) / safe_S1)
    bytes_SD = np.rint(known_SD.astype(np.float64) * inverse_S1.astype(np.float64)).astype(np.int8)
    return bytes_SD, np.where(finite_S1, steps_S1, np.float32(np.nan))


def _in_fours(dim: int) -> npt.NDArray[np.intp]:
    """Where the bytes of entries are among those of a block, (S, D)."""
    entries_S1 = np.arange(BLOCK_TOKENS)[:, None]
    return entries_S1 // 4 * 4 * dim + 4 * np.arange(dim) + entries_S1 % 4
