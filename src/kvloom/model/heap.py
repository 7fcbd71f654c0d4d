"""Returns heap memory that the C library retains after large temporary structures."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # parameters of glibc's mallopt
_SMALL, _LARGE = 256 * 2**10, 32 * 2**20


def give_back_free_memory() -> None:
    """Return freed heap to the system, where the C library supports it (glibc): 190 MB after a large vocabulary."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def give_back_memory_of_this_thread() -> None:
    """The same, including the top of this thread's own heap.

    ``malloc_trim`` does not trim that, nor does ``free`` below a threshold that grows with what was freed, so the
    threshold is lowered temporarily. Setting it stops its growth: both thresholds end where glibc would have raised
    them to.
    """
    library = ctypes.CDLL(None)
    if not hasattr(library, "malloc_trim"):
        return
    library.malloc.restype, library.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    library.mallopt(_MMAP_THRESHOLD, _LARGE)
    library.mallopt(_TRIM_THRESHOLD, _SMALL)
    library.free(library.malloc(_SMALL))
    library.mallopt(_TRIM_THRESHOLD, 2 * _LARGE)
    library.malloc_trim(0)
