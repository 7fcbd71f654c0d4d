"""What Python's memory grew by."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager


class Grown:
    """``bytes``: what was allocated inside of the context and is still there."""

    bytes = 0


@contextmanager
def watched() -> Iterator[Grown]:
    grown = Grown()
    gc.collect()
    tracemalloc.start()
    try:
        yield grown
        gc.collect()
        grown.bytes = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
