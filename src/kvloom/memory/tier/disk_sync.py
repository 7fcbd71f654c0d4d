"""Files that have their names, and are not yet known to survive a power failure."""

from __future__ import annotations

import os
import threading

from kvloom.memory.tier.page_file import write_fault

SYNC_BYTES = 64 * 2**20
"""Files are synced together when they have this many bytes, or there are ``SYNC_FILES`` of them."""

SYNC_FILES = 512


class SyncGroup:
    """All methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._files: list[str] = []
        self._bytes = 0

    def add(self, file: str, num_bytes: int) -> None:
        with self._lock:
            self._files.append(file)
            self._bytes += num_bytes

    def flush_when_due(self) -> None:
        """Raises TierFault."""
        if self._bytes >= SYNC_BYTES or len(self._files) >= SYNC_FILES:
            self.flush()

    def flush(self) -> None:
        """Files first, then the folders that have their names. Raises TierFault if the disk reports that it failed."""
        with self._lock:
            files, self._files, self._bytes = self._files, [], 0
        try:
            for path in files:
                _sync(path)
            for folder in {os.path.dirname(path) for path in files}:
                _sync(folder)
        except OSError as error:
            raise write_fault(error) from error


def _sync(path: str) -> None:
    """What was removed in the meantime needs no syncing. Raises OSError."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        os.fsync(file)
    finally:
        os.close(file)
