"""Reading untrusted files: only regular ones are opened, and every error names the file."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from kvloom.errors import KvloomError, ModelError, ModelFileError

_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a directory",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_MOST_BYTES = 1 << 30

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
"""The system's errors for a full disk or an exhausted quota."""


def open_regular(path: Path) -> BufferedReader:
    """Open a file for reading; anything but a regular file could block forever or never end.

    Links are followed anywhere, since the folder's owner made them (the Hugging Face cache consists of links). Names
    *inside* a file are restricted, see ``plain_name``. Raises ModelFileError.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise ModelFileError(f"cannot read `{path}`: {_reason(error)}") from error
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise _not_regular(path, mode)
    return os.fdopen(descriptor, "rb")


def read_bytes(path: Path, most: int = _MOST_BYTES) -> bytes:
    """All of a file other than weights. Raises ModelFileError, also for more than ``most`` bytes."""
    with open_regular(path) as file:
        try:
            data = file.read(most + 1)
        except OSError as error:
            raise ModelFileError(f"cannot read `{path}`: {_reason(error)}") from error
    if len(data) > most:
        raise ModelFileError(f"`{path}` has more than {most} bytes")
    return data


def is_there(path: Path) -> bool:
    """Whether a regular file is at ``path``. Raises ModelFileError for a link to nowhere, a FIFO, a directory ..."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        if path.is_symlink():
            raise ModelFileError(f"cannot read `{path}`: it is a link, and {_reason(error)}") from error
        return False
    if not stat.S_ISREG(mode):
        raise _not_regular(path, mode)
    return True


def plain_name(name: object, origin: Path) -> str:
    """``name``, which the file ``origin`` gives for a file beside it: no path, so it cannot lead elsewhere."""
    if not isinstance(name, str) or name in ("", ".", "..") or any(mark in name for mark in "/\\\0"):
        raise ModelFileError(f"`{origin}` names the file {str(name)[:80]!r}: only plain names beside it are read")
    return name


@contextmanager
def failures_name(path: Path, writes: Path | None = None) -> Iterator[None]:
    """Turns every exception while reading a model into a ModelError that names ``path``.

    The system's errors about ``writes``, which is ours, and about a full disk pass unchanged.
    """
    try:
        yield
    except ModelError as error:
        if path.name in str(error):
            raise
        raise type(error)(f"`{path}`: {error}", hint=error.hint) from error
    except KvloomError:
        raise
    except OSError as error:
        if error.errno in DISK_FULL or (writes is not None and str(error.filename).startswith(str(writes))):
            raise
        raise ModelFileError(f"cannot read `{path}`: {_reason(error)}") from error
    except Exception as error:
        raise _unforeseen(path, error) from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # a panic in Rust's tokenizers
            raise
        raise _unforeseen(path, error) from error


def _unforeseen(path: Path, error: BaseException) -> ModelFileError:
    if isinstance(error, MemoryError):
        return ModelFileError(f"`{path}` needs more memory than there is: {str(error)[:200]}")
    return ModelFileError(f"cannot use `{path}`, it is damaged: {type(error).__name__}: {str(error)[:200]}")


def _not_regular(path: Path, mode: int) -> ModelFileError:
    return ModelFileError(f"cannot read `{path}`: it is {_KINDS.get(stat.S_IFMT(mode), 'no file')}, not a regular file")


def _reason(error: OSError | ValueError) -> str:
    return str(error.strerror if isinstance(error, OSError) and error.strerror else error)
