"""Disk space: checked before a download, and reported clearly when it runs out."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kvloom.errors import PullError
from kvloom.model.reading import DISK_FULL


def need_room(directory: Path, num_bytes: int) -> None:
    """Raise PullError unless ``num_bytes`` are free where ``directory`` is."""
    free = shutil.disk_usage(directory).free
    if free < num_bytes:
        raise disk_full(directory, f"{num_bytes / 1e6:.0f} MB are needed, {free / 1e6:.0f} MB are free")


def disk_full(directory: Path, detail: str) -> PullError:
    return PullError(
        f"the disk that holds `{directory}` is full: {detail}",
        hint="free some space, or set KVLOOM_HOME to a directory on another disk",
    )


@contextmanager
def full_disk_is_pull_error(directory: Path) -> Iterator[None]:
    """Turn the system's errors for a full disk, an exhausted quota or missing permissions into PullError."""
    try:
        yield
    except PermissionError as error:
        raise PullError(f"cannot write to `{directory}`: {error.strerror}", hint="set KVLOOM_HOME") from error
    except OSError as error:
        if error.errno in DISK_FULL:
            raise disk_full(directory, str(error.strerror)) from error
        raise
