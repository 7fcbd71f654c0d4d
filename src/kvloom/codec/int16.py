"""Keys as 16-bit integers that share a step, values as float16.

Why: the scores of such keys and of queries rounded alike are exact sums of integers, which processors multiply at twice
the rate of float32 and add in any order with the same result. A key's step is the power of two of which its norm has
2^14 to 2^15, so no sum of 32 bits overflows, and a component loses at most 2^-15 of the key's norm; float16 loses up to
2^-11 of the component itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kvloom.arrays import Floats

Words = npt.NDArray[np.uint32]
"""Keys as stored, (S, D / 2 + 1): pairs of components, the even one in the lower half, then the bits of the step."""


@dataclass(frozen=True, slots=True)
class Int16Codec:
    name: str = "int16"
    key_error: float = 2.0**-15
    value_error: float = 2.0**-11
    by_norm: bool = True

    def key_bytes(self, dim: int) -> int:
        return 2 * dim + 4

    def value_bytes(self, dim: int) -> int:
        return 2 * dim


INT16 = Int16Codec()


def steps_of(x_SD: Floats) -> npt.NDArray[np.float32]:
    """The step of each vector, (S, 1). NaN when its sum of squares is not finite in float32."""
    with np.errstate(over="ignore"):
        squares_S1 = np.square(x_SD.astype(np.float64)).sum(axis=1, keepdims=True).astype(np.float32)
    finite_S1 = squares_S1 <= np.float32(3.4e38)  # not so: infinity, and NaN
    more_S1 = np.where(finite_S1, squares_S1, np.float32(0)) * np.float32(1.0002)  # then no component rounds to 2^15
    half_S1 = ((more_S1.view(np.int32) >> 23) + 1) >> 1
    return np.where(finite_S1, ((half_S1 + 49) << 23).view(np.float32), np.float32(np.nan))


def encode_keys(k_SD: Floats) -> Words:
    """Round to whole steps, ties to even. A key that is not finite, or beyond 2^63, becomes NaN as a whole."""
    steps_S1 = steps_of(k_SD)
    safe_S1 = np.where(np.isnan(steps_S1), np.float32(1), steps_S1)
    known_SD = np.where(np.isnan(steps_S1), np.float32(0), k_SD)
    integers_SD = np.rint(known_SD.astype(np.float64) / safe_S1).astype(np.int16)
    pairs_SW = np.ascontiguousarray(integers_SD).view(np.uint32)
    return np.concatenate([pairs_SW, steps_S1.view(np.uint32)], axis=1)


def decode_keys(words_SW: Words) -> Floats:
    """What stored keys mean, float32 (S, D)."""
    words_SW = np.ascontiguousarray(words_SW)
    integers_SD = np.ascontiguousarray(words_SW[:, :-1]).view(np.int16)
    return integers_SD.astype(np.float32) * np.ascontiguousarray(words_SW[:, -1:]).view(np.float32)
