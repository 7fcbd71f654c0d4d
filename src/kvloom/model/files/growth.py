"""Progress of a download by another program: watches its directory grow."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kvloom.model.files.progress import Progress

_POLL_S = 0.1


@contextmanager
def watched(directory: Path, progress: Progress, total_bytes: int | None) -> Iterator[None]:
    """Advance ``progress`` while the bytes under ``directory`` grow, never beyond ``total_bytes``.

    A body that ends well advances to the full total: downloads come compressed, or are moved away when complete.
    """
    ended = threading.Event()
    seen = 0

    def watch() -> None:
        nonlocal seen
        while not ended.wait(_POLL_S):
            now = _bytes_under(directory)
            now = now if total_bytes is None else min(now, total_bytes)
            if now > seen:
                progress.advance(now - seen)
                seen = now

    thread = threading.Thread(target=watch, name="kvloom-pull-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    if total_bytes is not None and total_bytes > seen:
        progress.advance(total_bytes - seen)


def _bytes_under(directory: Path) -> int:
    total = 0
    for path in directory.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:  # moved away between listing and looking
            continue
    return total
