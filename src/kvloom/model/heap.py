"""Memory that the C library keeps for itself after large temporary structures."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # parameters of glibc's mallopt
_SMALL, _LARGE = 256 * 2**10, 32 * 2**20


def give_back_free_memory() -> None:
    """Return freed heap to the system, where the C library can (glibc). Parsing a large vocabulary frees 190 MB."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def give_back_memory_of_this_thread() -> None:
    """The same, and the end of the heap that this thread has to itself as well.

    ``malloc_trim`` leaves that end alone, and so does ``free`` below a threshold that grows with what was freed. So the
    threshold is low for a moment. A threshold that was set does not grow any more: the two are left where glibc would
    have let them grow to.
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
