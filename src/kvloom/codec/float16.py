"""IEEE half precision, to nearest: a number that is not subnormal there keeps 11 bits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kvloom.arrays import Floats
from kvloom.codec.base import Codec, Entrywise, Parts


class Float16Stream(Entrywise):
    __slots__ = ()

    def fields(self, dim: int) -> Sequence[tuple[type[np.generic], int]]:
        return [(np.float16, dim)]

    def pack(self, x_SD: Floats) -> Parts:
        with np.errstate(over="ignore", under="ignore"):
            return [x_SD.astype(np.float16)]

    def unpack(self, parts: Parts) -> Floats:
        return parts[0].astype(np.float32)

    def bound(self, x_SD: Floats) -> Floats:
        size_SD = np.abs(x_SD)
        return np.where(size_SD < 65520, np.maximum(size_SD * np.float32(2**-11), np.float32(2**-25)), np.inf)


FLOAT16 = Codec("float16", keys=Float16Stream(transposed=True), values=Float16Stream(transposed=False))
