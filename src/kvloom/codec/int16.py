"""Keys as 16-bit integers that share a step, values as float16.

Why: the scores of such keys and of queries rounded alike are exact sums of integers, which processors multiply at twice
the rate of float32 and add in any order with the same result. A key's step is the power of two of which its norm has
2^14 to 2^15, so no sum of 32 bits overflows, and a component loses at most 2^-15 of the key's norm; float16 loses up to
2^-11 of the component itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from kvloom.arrays import Floats
from kvloom.codec.base import Codec, Entrywise, Parts
from kvloom.codec.float16 import Float16Stream


class Int16Keys(Entrywise):
    """Stored are pairs of components as words, the even one in the lower half, and the step.

    A key that is not finite, or beyond 2^63, becomes NaN as a whole.
    """

    __slots__ = ()

    def fields(self, dim: int) -> Sequence[tuple[type[np.generic], int]]:
        return [(np.uint32, dim // 2), (np.float32, 1)]

    def pack(self, x_SD: Floats) -> Parts:
        integers_SD, steps_S1 = in_steps(x_SD)
        return [np.ascontiguousarray(integers_SD).view(np.uint32), steps_S1]

    def unpack(self, parts: Parts) -> Floats:
        words_SW, steps_S1 = parts
        return words_SW.view(np.int16).astype(np.float32) * steps_S1

    def met(self, q_TD: Floats) -> Floats:
        return rounded(q_TD)

    def bound(self, x_SD: Floats) -> Floats:
        norms_S1 = np.linalg.norm(x_SD.astype(np.float64), axis=-1, keepdims=True)
        bound_S1 = np.where(norms_S1 < 2.0**63, np.maximum(norms_S1 * 2.0**-15, 2.0**-79), np.inf)
        return np.broadcast_to(bound_S1, x_SD.shape).astype(np.float32)


INT16 = Codec("int16", keys=Int16Keys(transposed=True), values=Float16Stream(transposed=False))


def steps_of(x_SD: Floats) -> npt.NDArray[np.float32]:
    """The step of each vector, (..., S, 1). NaN when its sum of squares is not finite in float32."""
    with np.errstate(over="ignore"):
        squares_S1 = np.square(x_SD.astype(np.float64)).sum(axis=-1, keepdims=True).astype(np.float32)
    finite_S1 = squares_S1 <= np.float32(3.4e38)  # not so: infinity, and NaN
    more_S1 = np.where(finite_S1, squares_S1, np.float32(0)) * np.float32(1.0002)  # then no component rounds to 2^15
    half_S1 = ((more_S1.view(np.int32) >> 23) + 1) >> 1
    return np.where(finite_S1, ((half_S1 + 49) << 23).view(np.float32), np.float32(np.nan))


def in_steps(x_SD: Floats) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.float32]]:
    """Vectors in whole steps, ties to even, and their steps. What has no step is 0."""
    steps_S1 = steps_of(x_SD)
    safe_S1 = np.where(np.isnan(steps_S1), np.float32(1), steps_S1)
    known_SD = np.where(np.isnan(steps_S1), np.float32(0), x_SD)
    return np.rint(known_SD.astype(np.float64) / safe_S1).astype(np.int16), steps_S1


def rounded(x_SD: Floats) -> Floats:
    """Vectors in whole steps, as float32."""
    integers_SD, steps_S1 = in_steps(x_SD)
    return integers_SD.astype(np.float32) * steps_S1
