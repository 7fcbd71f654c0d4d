"""The number formats of kvchunk files: names as safetensors has them, little-endian, as float32 in memory.

F32     as it is
F16     IEEE half precision, nearest, ties to even: at most 2^-11 of a number (2^-25 below 2^-14)
BF16    the upper half of a float32, nearest, ties to even: at most 2^-8 of a number
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from kvloom.arrays import Floats

Dtype = Literal["F32", "F16", "BF16"]

ITEM_BYTES: Mapping[str, int] = {"F32": 4, "F16": 2, "BF16": 2}

EXACT: Mapping[str, Dtype] = {"float16": "F16", "int16": "F16", "bfloat16": "BF16"}
"""The smallest format that has all values (not keys) of a codec; F32 has those of every other."""


def packed(x: Floats, dtype: str) -> bytes:
    """The bytes of an array in C order, rounded to ``dtype``."""
    if dtype == "F32":
        return np.ascontiguousarray(x, "<f4").tobytes()
    if dtype == "F16":
        return x.astype("<f2").tobytes()
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) >> np.uint32(16)
    return np.where(np.isnan(x), (bits >> np.uint32(16)) | np.uint32(0x40), rounded).astype("<u2").tobytes()


def unpacked(data: memoryview, dtype: str, shape: tuple[int, ...]) -> Floats:
    """The inverse of ``packed``: float32, writable."""
    if dtype == "F32":
        return np.frombuffer(data, "<f4").reshape(shape).astype(np.float32)
    if dtype == "F16":
        return np.frombuffer(data, "<f2").reshape(shape).astype(np.float32)
    wide = np.frombuffer(data, "<u2").reshape(shape).astype(np.uint32) << np.uint32(16)
    floats: Floats = wide.view(np.float32)
    return floats


def rounded(x: Floats, dtype: str) -> Floats:
    """What is left of an array in ``dtype``."""
    return unpacked(memoryview(packed(x, dtype)), dtype, x.shape)
