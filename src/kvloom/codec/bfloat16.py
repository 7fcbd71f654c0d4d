"""The upper half of a float32, to nearest: 8 bits, and all of its range."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kvloom.arrays import Floats
from kvloom.codec.base import Codec, Entrywise, Parts


class BFloat16Stream(Entrywise):
    """numpy does not know the type: its bits are uint16."""

    __slots__ = ()

    def fields(self, dim: int) -> Sequence[tuple[type[np.generic], int]]:
        return [(np.uint16, dim)]

    def pack(self, x_SD: Floats) -> Parts:
        bits_SD = np.ascontiguousarray(x_SD, np.float32).view(np.uint32).astype(np.uint64)
        to_even_SD = (bits_SD + 0x7FFF + (bits_SD >> 16 & 1)) >> 16
        return [np.where(np.isnan(x_SD), bits_SD >> 16 | 0x40, to_even_SD).astype(np.uint16)]

    def unpack(self, parts: Parts) -> Floats:
        return (parts[0].astype(np.uint32) << 16).view(np.float32)

    def bound(self, x_SD: Floats) -> Floats:
        size_SD = np.abs(x_SD)
        bound_SD = np.maximum(size_SD * np.float32(2**-8), np.float32(2**-134))
        return np.where(size_SD < np.float32(3.39e38), bound_SD, np.inf)


BFLOAT16 = Codec("bfloat16", keys=BFloat16Stream(transposed=True), values=BFloat16Stream(transposed=False))
