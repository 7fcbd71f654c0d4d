"""Where the pages on disk are written down: in SQLite, so that a start need not open every file.

    page(number INTEGER PRIMARY KEY, key BLOB, layer_group INTEGER, bytes INTEGER, used REAL, writer INTEGER)

``number`` counts up, so that what was written together lies together; ``bytes`` is the length of the file, ``used`` the
time of its last use (seconds since 1970), ``writer`` the number in its header. Nothing is looked up in here while the
tier runs: rows are read once, at the start, and there they only count where the files agree (``disk_recovery``). So
changes need not be there at once: they are collected, and committed ``BATCH`` at a time. What a crash takes, or a disk
that refuses, costs the order of last use, never a page, and never correctness.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from dataclasses import dataclass
from pathlib import Path

from kvloom.memory.tier.base import Place
from kvloom.segment import PageKey

BATCH = 128
"""Changes that are committed together."""

INDEX_BYTES = 3 * 2**19
"""Charged for the database when empty, its log, which is emptied when it has 256 KiB, and SQLite's cache in RAM."""

_APPLICATION = 0x4B564C4D
_VERSION = 2
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
                  used REAL NOT NULL, writer INTEGER NOT NULL);
"""

_ADD = "INSERT OR REPLACE INTO page VALUES (?, ?, ?, ?, ?, ?)"
_REMOVE = "DELETE FROM page WHERE number = ?"
_TOUCH = "UPDATE page SET used = ? WHERE number = ?"


@dataclass(frozen=True, slots=True)
class Row:
    number: int
    place: Place
    bytes: int
    used: float
    writer: int = 0


class DiskIndex:
    """All methods may be called from any thread. A database that is missing, damaged or not ours is made anew, empty;
    if the disk has no room for one, it is in memory, and lost with the process."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._committing = threading.Lock()
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
        """Write down what was collected; if the disk refuses, it is not written down. More is collected meanwhile."""
        with self._committing:
            with self._lock:
                added, used, removed = self._added, self._used, self._removed
                self._added, self._used, self._removed = {}, {}, set()
            changes: list[tuple[str, tuple[object, ...]]] = [(_REMOVE, (number,)) for number in removed]
            changes += [(_ADD, (row.number, *row.place, row.bytes, row.used, row.writer)) for row in added.values()]
            changes += [(_TOUCH, (time, number)) for number, time in used.items()]
            for start in range(0, len(changes), BATCH):
                self._execute(changes[start : start + BATCH])

    def close(self) -> None:
        """Commit, and leave one file. Nothing is written down after this."""
        self.commit()
        with self._committing, contextlib.suppress(sqlite3.Error):
            self._database.close()

    def _execute(self, changes: list[tuple[str, tuple[object, ...]]]) -> None:
        """In one transaction, of a bounded size, as the log holds a page of the database for every change at worst."""
        with contextlib.suppress(sqlite3.Error), self._database:
            for statement, values in changes:
                self._database.execute(statement, values)


def _opened(path: Path | str) -> tuple[sqlite3.Connection, dict[Place, Row]]:
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
    except (sqlite3.Error, OSError):
        return _opened(":memory:")


def _rows_of(database: sqlite3.Connection) -> dict[Place, Row]:
    """Raises sqlite3.Error, or ValueError for a row that was not written here."""
    rows = {}
    for number, key, group, num_bytes, used, writer in database.execute("SELECT * FROM page ORDER BY number"):
        if not (
            isinstance(key, bytes) and isinstance(group, int) and isinstance(num_bytes, int) and isinstance(writer, int)
        ):
            raise ValueError("not a row of an index of pages")
        row = Row(number, Place(PageKey(key), group), num_bytes, float(used), writer)
        rows[row.place] = row
    return rows
