"""Where the pages on disk are written down: in SQLite, so that a start need not open every file.

    page(number INTEGER PRIMARY KEY, key BLOB, layer_group INTEGER, bytes INTEGER, used REAL)

``number`` counts up, so that what was written together lies together; ``bytes`` is the length of the file, ``used`` the
time of its last use (seconds since 1970). Nothing is looked up in here while the tier runs: rows are read once, at the
start, and there they only count where the files agree (``disk_recovery``). So changes need not be there at once: they
are collected, and committed ``BATCH`` at a time. What a crash takes, or a disk that refuses, costs the order of last
use, never a page, and never correctness.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from dataclasses import dataclass
from pathlib import Path

from kvloom.errors import ConfigError
from kvloom.memory.tier.base import Place
from kvloom.segment import PageKey

BATCH = 128
"""Changes that are committed together."""

INDEX_BYTES = 3 * 2**19
"""Charged for the database when empty, its log, which is emptied when it has 256 KiB, and SQLite's cache in RAM."""

_APPLICATION = 0x4B564C4D
_VERSION = 1
_CACHE_KIB = 256
_SETTINGS = f"""
PRAGMA page_size = 1024;
PRAGMA auto_vacuum = FULL;
PRAGMA locking_mode = EXCLUSIVE;
PRAGMA synchronous = NORMAL;
PRAGMA journal_mode = WAL;
PRAGMA wal_autocheckpoint = 256;
PRAGMA cache_size = -{_CACHE_KIB};
"""
_CREATE = f"""
PRAGMA application_id = {_APPLICATION};
PRAGMA user_version = {_VERSION};
CREATE TABLE page(number INTEGER PRIMARY KEY, key BLOB NOT NULL, layer_group INTEGER NOT NULL, bytes INTEGER NOT NULL,
                  used REAL NOT NULL);
"""


@dataclass(frozen=True, slots=True)
class Row:
    number: int
    place: Place
    bytes: int
    used: float


class DiskIndex:
    """All methods may be called from any thread. A database that is missing, damaged or not ours is made anew, empty.

    Raises ConfigError when none can be made.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._added: dict[int, Row] = {}
        self._used: dict[int, float] = {}
        self._removed: set[int] = set()
        try:
            self._database, self._rows = _opened(path)
        except (sqlite3.Error, ValueError):
            self._database, self._rows = _made_anew(path)
        self._next = max((row.number for row in self._rows.values()), default=0) + 1

    def take_rows(self) -> dict[Place, Row]:
        """What was written down at the start; it is not kept in memory any longer."""
        rows, self._rows = self._rows, {}
        return rows

    def number(self) -> int:
        """One that no row has had."""
        with self._lock:
            self._next += 1
            return self._next - 1

    def add(self, row: Row) -> None:
        with self._lock:
            self._added[row.number] = row

    def touch(self, number: int, used: float) -> None:
        with self._lock:
            self._used[number] = used

    def remove(self, number: int) -> None:
        with self._lock:
            if self._added.pop(number, None) is None:
                self._removed.add(number)
            self._used.pop(number, None)

    def commit_when_due(self) -> None:
        """Called after every few changes, where a commit may take its time."""
        if len(self._added) + len(self._used) + len(self._removed) >= BATCH:
            self.commit()

    def commit(self) -> None:
        """Write down what was collected; if the disk refuses, it is not written down."""
        with self._lock:
            added = [(row.number, row.place.key, row.place.group, row.bytes, row.used) for row in self._added.values()]
            removed = [(number,) for number in self._removed]
            used = [(time, number) for number, time in self._used.items()]
            self._added, self._used, self._removed = {}, {}, set()
            with contextlib.suppress(sqlite3.Error), self._database:
                self._database.executemany("DELETE FROM page WHERE number = ?", removed)
                self._database.executemany("INSERT OR REPLACE INTO page VALUES (?, ?, ?, ?, ?)", added)
                self._database.executemany("UPDATE page SET used = ? WHERE number = ?", used)

    def close(self) -> None:
        """Commit, and leave one file. Nothing is written down after this."""
        self.commit()
        with self._lock, contextlib.suppress(sqlite3.Error):
            self._database.close()


def _opened(path: Path) -> tuple[sqlite3.Connection, dict[Place, Row]]:
    """Raises sqlite3.Error, or ValueError for somebody else's database."""
    database = sqlite3.connect(path, check_same_thread=False)
    try:
        database.executescript(_SETTINGS)
        (application,) = database.execute("PRAGMA application_id").fetchone()
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if (application, version) == (0, 0) and not database.execute("SELECT 1 FROM sqlite_master").fetchone():
            database.executescript(_CREATE)
        elif (application, version) != (_APPLICATION, _VERSION):
            raise ValueError("not an index of pages")
        return database, _rows_of(database)
    except BaseException:
        database.close()
        raise


def _made_anew(path: Path) -> tuple[sqlite3.Connection, dict[Place, Row]]:
    try:
        for end in ("", "-wal", "-shm", "-journal"):
            path.with_name(path.name + end).unlink(missing_ok=True)
        return _opened(path)
    except (sqlite3.Error, OSError) as error:
        raise ConfigError(
            f"no index can be made in `{path}`: {error}", hint="give a directory that can be written to"
        ) from error


def _rows_of(database: sqlite3.Connection) -> dict[Place, Row]:
    """Raises sqlite3.Error, or ValueError for a row that was not written here."""
    rows = {}
    for number, key, group, num_bytes, used in database.execute("SELECT * FROM page ORDER BY number"):
        if not (isinstance(key, bytes) and isinstance(group, int) and isinstance(num_bytes, int)):
            raise ValueError("not a row of an index of pages")
        row = Row(number, Place(PageKey(key), group), num_bytes, float(used))
        rows[row.place] = row
    return rows
