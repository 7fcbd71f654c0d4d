"""numpy arrays for the kernels, which access them by address."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

CACHE_LINE_BYTES = 64


def aligned_bytes(count: int) -> Bytes:
    """``count`` bytes, uninitialized, that start at a cache line: numpy alone promises 16 bytes, and a kernel's load
    that crosses a line costs two."""
    room = np.empty(count + CACHE_LINE_BYTES, np.uint8)
    start = -room.ctypes.data % CACHE_LINE_BYTES
    return room[start : start + count]


def contiguous_address(x: Floats) -> int:
    """Address of a contiguous float32 array."""
    assert x.flags.c_contiguous, f"contiguous float32 wanted, but the strides are {x.strides}"
    return float_address(x)


def float_address(x: Floats) -> int:
    """Address of a float32 array with any strides."""
    assert x.dtype == np.float32, f"float32 wanted, not {x.dtype}"
    return x.ctypes.data


def vector_address(x: Floats, size: int) -> int:
    """Address of a contiguous float32 vector of ``size`` values."""
    assert x.shape == (size,), f"a vector of {size} wanted: {x.shape}"
    return contiguous_address(x)
