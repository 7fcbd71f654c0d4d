"""A directory of pages: how it is laid out, and who has it.

    format.json           that this is such a directory, and of which version
    writers.json          which models and formats pages are of: see ``disk_writers``
    lock                  held (flock) while a process uses the directory; its content says which process
    index.sqlite, -wal    what lies where: see ``disk_index``; can be made again from the pages
    documents.sqlite      texts of documents by their ids, if there are any: see ``engine.chunks.named``
    pages/ab/KEY-0.kv     a page, by the first byte of its key: see ``page_file``
    pages/ab/.*.tmp       a page that is being written

The system gives a lock back when its holder dies, however it dies.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path

from kvloom.errors import ConfigError
from kvloom.memory.tier.base import Place
from kvloom.memory.tier.disk_writers import WRITERS, WRITERS_BYTES
from kvloom.memory.tier.page_file import page_name

DIRECTORY_VERSION = 1

INDEX = "index.sqlite"
_FORMAT, _LOCK, _PAGES = "format.json", "lock", "pages"
_SMALL = (_FORMAT, f"{_FORMAT}.tmp", WRITERS, f"{WRITERS}.tmp", _LOCK)
_OURS = {*_SMALL, _PAGES, INDEX, *(f"{INDEX}-{end}" for end in ("wal", "shm", "journal"))}
_OF_THE_SYSTEM = {"lost+found"}
_KIND = "kvloom pages"
_TEMPORARY = re.compile(r"\.[0-9a-f]{16}\.tmp")
_FOLDERS = 256
_OTHER_FILES = 4  # this directory, that of the folders, the lock and the format


def is_cache_directory(path: Path) -> bool:
    """Whether pages have been kept there."""
    return (path / _FORMAT).is_file()


class CacheDirectory:
    """Made if there is none, and this process's own until ``close``.

    Raises ConfigError: another process has it, it holds something else, is of another version, or the system says no.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            _refuse_foreign(path)
            self._lock = _locked(path)
        except OSError as error:
            raise unusable(path, error) from error
        try:
            _check_version(path)
            (path / _PAGES).mkdir(mode=0o700, exist_ok=True)
            self.block_bytes = os.statvfs(path).f_frsize
        except OSError as error:
            self.close()
            raise unusable(path, error) from error
        except ConfigError:
            self.close()
            raise

    @property
    def index(self) -> Path:
        return self.path / INDEX

    @property
    def own_bytes(self) -> int:
        """What the directories and the small files occupy, with all folders that there may be."""
        return (_FOLDERS + _OTHER_FILES) * self.block_bytes + self.occupied_bytes(WRITERS_BYTES)

    def occupied_bytes(self, file_bytes: int) -> int:
        """What a file of this length occupies: whole blocks of the file system."""
        return -(-file_bytes // self.block_bytes) * self.block_bytes

    def file_of(self, place: Place) -> str:
        """Names of files are plain strings: a ``Path`` interns its parts, and there are many."""
        name = page_name(place)
        return f"{self.path}/{_PAGES}/{name[:2]}/{name}"

    def temporary_of(self, place: Place) -> str:
        """Where a page is written before it gets its name: nobody else writes there."""
        return f"{os.path.dirname(self.file_of(place))}/.{secrets.token_hex(8)}.tmp"

    def make_folder(self, place: Place) -> None:
        """The folder of a page's file. Raises OSError: the directory itself is never made again."""
        with contextlib.suppress(FileExistsError):
            os.mkdir(os.path.dirname(self.file_of(place)), 0o700)

    def files(self) -> Iterator[os.DirEntry[str]]:
        """All files in the folders. Raises OSError."""
        with os.scandir(self.path / _PAGES) as folders:
            for folder in folders:
                if folder.is_dir(follow_symlinks=False):
                    with os.scandir(folder) as files:
                        yield from files

    def close(self) -> None:
        """Let others have it."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def is_temporary(name: str) -> bool:
    """Whether ``temporary_of`` made the name of a file."""
    return _TEMPORARY.fullmatch(name) is not None


def _refuse_foreign(path: Path) -> None:
    """Somebody's home is no cache: what is new must be empty."""
    names = set(os.listdir(path)) - _OF_THE_SYSTEM
    if _FORMAT not in names and names - _OURS:
        raise ConfigError(
            f"`{path}` is not a cache of kvloom, and not empty: it has `{min(names - _OURS)}`",
            hint="give a directory that is empty or does not exist",
        )


def _locked(path: Path) -> int | None:
    """The lock as a file descriptor. Raises ConfigError if another has it."""
    lock = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with contextlib.suppress(OSError):  # a full disk can still be read from
            os.ftruncate(lock, 0)
            os.pwrite(lock, f"process {os.getpid()}\n".encode(), 0)
    except BlockingIOError:
        holder = os.pread(lock, 64, 0).decode(errors="replace").strip() or "another process"
        os.close(lock)
        raise ConfigError(
            f"the cache in `{path}` is in use by {holder}", hint="stop that process, or give another directory"
        ) from None
    except BaseException:
        os.close(lock)
        raise
    return lock


def _check_version(path: Path) -> None:
    """Of the format of all that lies here; written down where nothing says so yet."""
    file = path / _FORMAT
    if not file.exists():
        _write_version(file)
        return
    try:
        said = json.loads(file.read_bytes())
        kind, version = said["kind"], said["version"]
    except (ValueError, KeyError, TypeError):
        kind = version = None
    if kind != _KIND:
        raise ConfigError(
            f"`{file}` does not say what the directory holds",
            hint="delete that file if kvloom made the directory, or give another one",
        )
    if version != DIRECTORY_VERSION:
        raise ConfigError(
            f"the cache in `{path}` has format {version}, this version of kvloom keeps format {DIRECTORY_VERSION}",
            hint="give another directory, or delete this one",
        )


def _write_version(file: Path) -> None:
    """For good before anything else is written."""
    temporary = file.with_name(f"{_FORMAT}.tmp")
    with temporary.open("w") as out:
        json.dump({"kind": _KIND, "version": DIRECTORY_VERSION}, out)
        out.flush()
        os.fsync(out.fileno())
    os.replace(temporary, file)


def unusable(path: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"`{path}` cannot be used as a cache: {error.strerror or error}", hint="give a directory that can be written to"
    )
