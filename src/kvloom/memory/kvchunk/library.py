"""A library: kvchunk files in one directory, within a budget.

Any number of processes may use it at once: files appear whole, never change, and are only ever removed. What was used
least recently goes first, by the time in the file system. There is no index to go wrong.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from kvloom.memory.kvchunk.chunk import KvChunk
from kvloom.memory.kvchunk.refusal import ChunkRefused, Refusal
from kvloom.memory.kvchunk.writing import file_parts, remove_unfinished, write_parts

SUFFIX = ".kvchunk.safetensors"

_BLOCK = 512
"""In these ``st_blocks`` counts."""


class Shelved(NamedTuple):
    """A file of a library: ``bytes`` of the disk, last used ``used`` seconds after 1970."""

    used: float
    path: Path
    bytes: int


def touch(path: Path, now: float) -> bool:
    """Count ``now``, in seconds since 1970, as a use of a file. False: there is none."""
    try:
        os.utime(path, (now, now))
    except OSError:  # somebody else's, perhaps
        return path.is_file()
    return True


@dataclass(frozen=True, slots=True)
class Library:
    """``budget_bytes``: of all files in whole blocks; None: no limit. The directory is made by the first ``write``."""

    directory: Path
    budget_bytes: int | None = None
    clock: Callable[[], float] = time.time

    def path_of(self, key: str) -> Path:
        return self.directory / f"{key}{SUFFIX}"

    def write(self, chunk: KvChunk) -> Path:
        """Keep a chunk; if it is there, that counts as a use of it. Raises ChunkRefused."""
        path = self.path_of(chunk.identity.key)
        self._make_directory()
        if not touch(path, self.clock()):
            parts = file_parts(chunk)
            self._make_room(sum(map(len, parts)))
            write_parts(path, parts)
            touch(path, self.clock())
        return path

    def files(self) -> list[Shelved]:
        """From the least recently used on."""
        found = []
        for path in self.directory.glob(f"*{SUFFIX}"):
            with contextlib.suppress(OSError):
                status = path.stat()
                found.append(Shelved(status.st_mtime, path, status.st_blocks * _BLOCK))
        return sorted(found)

    def shrink(self, max_bytes: int) -> list[Shelved]:
        """Remove what was used least recently until the rest fits, and what dead writers have left."""
        remove_unfinished(self.directory, SUFFIX)
        files = self.files()
        removed, total = [], sum(each.bytes for each in files)
        for each in files:
            if total <= max_bytes:
                break
            with contextlib.suppress(FileNotFoundError):
                each.path.unlink()
                removed.append(each)
            total -= each.bytes
        return removed

    # -- inside ----------------------------------------------------------------------------------------------------

    def _make_directory(self) -> None:
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ChunkRefused(
                Refusal.FAILED, f"`{self.directory}` cannot be made: {error.strerror or error}"
            ) from error

    def _make_room(self, more: int) -> None:
        """Raises ChunkRefused when a file is larger than everything may be."""
        if self.budget_bytes is None:
            return
        more = -(-more // 4096) * 4096
        if more > self.budget_bytes:
            raise ChunkRefused(Refusal.FULL, f"a file of {more} bytes, where {self.budget_bytes} are all there may be")
        self.shrink(self.budget_bytes - more)
