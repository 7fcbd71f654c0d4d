"""Numbers as they are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kvloom.arrays import Floats
from kvloom.codec.base import Codec, Entrywise, Parts


class Float32Stream(Entrywise):
    __slots__ = ()

    def fields(self, dim: int) -> Sequence[tuple[type[np.generic], int]]:
        return [(np.float32, dim)]

    def pack(self, x_SD: Floats) -> Parts:
        return [x_SD]

    def unpack(self, parts: Parts) -> Floats:
        return parts[0]

    def bound(self, x_SD: Floats) -> Floats:
        return np.zeros_like(x_SD)


FLOAT32 = Codec("float32", keys=Float32Stream(transposed=True), values=Float32Stream(transposed=False))
