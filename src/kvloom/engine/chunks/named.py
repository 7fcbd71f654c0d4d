"""Texts of documents by the ids that people give them, so that a request can name one instead of sending it.

    document(number INTEGER PRIMARY KEY, owner TEXT, name TEXT, text TEXT)      in SQLite, in memory or in a file

What is kept is the text. Its tokens, and with them where its KV is, follow from that: an id never stands for KV, which
is found, loaded or computed as that of any document.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
from pathlib import Path

from kvloom.config import TierConfig
from kvloom.errors import ConfigError, RequestError

logger = logging.getLogger(__name__)

FILE = "documents.sqlite"
"""In the directory of a disk tier."""

LONGEST_NAME = 256
"""Characters of an id."""

_APPLICATION = 0x4B564C44
_CREATE = f"""
PRAGMA application_id = {_APPLICATION};
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
CREATE TABLE IF NOT EXISTS document(number INTEGER PRIMARY KEY AUTOINCREMENT, owner TEXT NOT NULL, name TEXT NOT NULL,
                                    text TEXT NOT NULL, UNIQUE(owner, name));
"""
_FIND = "SELECT text FROM document WHERE owner = ? AND name = ?"
_ADD = "INSERT OR REPLACE INTO document(owner, name, text) VALUES (?, ?, ?)"
_OLDEST = "SELECT number, length(CAST(text AS BLOB)) FROM document WHERE owner = ? ORDER BY number LIMIT 1"
_REMOVE = "DELETE FROM document WHERE number = ?"
_BYTES = "SELECT owner, SUM(length(CAST(text AS BLOB))) FROM document GROUP BY owner"


class NamedDocuments:
    """Every owner has ``max_bytes`` of text; what was kept first goes first. Nobody finds what is another's.

    ``path``: None keeps them in memory. Safe to share between threads. Raises ConfigError when the file is none.
    """

    def __init__(self, path: Path | None = None, max_bytes: int = 64 * 2**20) -> None:
        self._max_bytes, self._lock = max_bytes, threading.Lock()
        try:
            self._database = sqlite3.connect(path or ":memory:", check_same_thread=False, isolation_level=None)
            self._database.executescript(_CREATE)
            self._bytes: dict[str, int] = dict(self._database.execute(_BYTES))
        except sqlite3.Error as error:
            raise ConfigError(f"`{path}` cannot be used for documents: {error}", hint="delete that file") from None
        if path is not None:
            path.chmod(0o600)

    @classmethod
    def beside(cls, tiers: TierConfig, max_bytes: int) -> NamedDocuments:
        """In the directory of the disk tier, which this process has; in memory where there is none."""
        path = None if tiers.cache_dir is None else Path(tiers.cache_dir).expanduser() / FILE
        return cls(path, max_bytes)

    def keep(self, owner: str, name: str, text: str) -> None:
        """Under this id from now on. Raises RequestError for a text that is too long, or an id that is none.

        What the disk refuses is not kept, and logged.
        """
        check_name(name)
        try:
            size = len(text.encode())
        except UnicodeEncodeError:
            raise RequestError(f"document `{name}` is not valid Unicode: a lone surrogate", param="messages") from None
        if size > self._max_bytes:
            raise RequestError(
                f"document `{name}` has {size:,} bytes, and at most {self._max_bytes:,} are kept",
                hint="send it without an id",
                param="messages",
            )
        with self._lock:
            try:
                self._keep(owner, name, text, size)
            except sqlite3.Error as error:
                logger.warning("a document was not kept: %s", error)

    def find(self, owner: str, name: str) -> str | None:
        """The text of this id; None: there is none."""
        with self._lock:
            try:
                found = self._database.execute(_FIND, (owner, name)).fetchone()
            except sqlite3.Error as error:
                logger.warning("documents cannot be read: %s", error)
                return None
        return None if found is None else str(found[0])

    def close(self) -> None:
        with self._lock, contextlib.suppress(sqlite3.Error):
            self._database.close()

    def _keep(self, owner: str, name: str, text: str, size: int) -> None:
        before = self._database.execute(_FIND, (owner, name)).fetchone()
        if before is not None and before[0] == text:
            return
        total = self._bytes.get(owner, 0) + size - (0 if before is None else len(before[0].encode()))
        self._database.execute("BEGIN")
        try:
            self._database.execute(_ADD, (owner, name, text))
            while total > self._max_bytes:
                number, gone = self._database.execute(_OLDEST, (owner,)).fetchone()
                self._database.execute(_REMOVE, (number,))
                total -= gone
            self._database.execute("COMMIT")
        except sqlite3.Error:
            with contextlib.suppress(sqlite3.Error):
                self._database.execute("ROLLBACK")
            raise
        self._bytes[owner] = total


def forget_documents(directory: Path) -> None:
    """All that are kept in the directory of a disk tier, which this process has."""
    for end in ("", "-wal", "-shm"):
        (directory / f"{FILE}{end}").unlink(missing_ok=True)


def check_name(name: object) -> str:
    """Raises RequestError for an id that is none."""
    if not isinstance(name, str) or not 0 < len(name) <= LONGEST_NAME or not name.isprintable():
        raise RequestError(
            f"the id of a document must be a string of 1 to {LONGEST_NAME} printable characters", param="messages"
        )
    return name
