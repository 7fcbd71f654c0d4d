"""The books of the tier on disk: which files are there, and what is charged for them.

    charged = base + sum over files, whole or being written (length in whole blocks + ENTRY_BYTES)

Room is charged before a file is written, and given back after it was removed and its last reader has left. What cannot
be removed stays charged. Whoever calls holds a lock, except for ``in`` and the numbers.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass

from kvloom.errors import ConfigError
from kvloom.memory.tier.base import Fault, TierFault
from kvloom.memory.tier.disk_directory import CacheDirectory
from kvloom.memory.tier.disk_index import INDEX_BYTES, DiskIndex, Row
from kvloom.memory.tier.page_file import file_bytes
from kvloom.memory.tier.shelf import Record, Shelf

ENTRY_BYTES = 1024
"""Charged per page besides its file: record in RAM (measured: 0.4 KB), row (0.1 KB), entry in a folder, inode."""


@dataclass(slots=True, eq=False, kw_only=True)
class FileRecord(Record):
    """``number``: its row's. ``bytes``: length of the file. ``cost``: what is charged. ``used``: seconds since 1970.

    ``writer``: the number in its header. ``stuck``: its file cannot be removed.
    """

    number: int
    bytes: int
    cost: int
    used: float
    writer: int
    stuck: bool = False

    def row(self) -> Row:
        return Row(self.number, self.place, self.bytes, self.used, self.writer)


class DiskBooks(Shelf[FileRecord]):
    """A shelf of files. ``written_by``: how many that can be found, by writer; ``bytes_by``: what is charged for them.
    Raises ConfigError if the budget has no room for a page.
    """

    def __init__(self, directory: CacheDirectory, budget_bytes: int) -> None:
        super().__init__()
        self._directory = directory
        self._base_bytes = directory.own_bytes + INDEX_BYTES
        self.budget_bytes = budget_bytes
        self.used_bytes = self._base_bytes
        self.dropped_pages = 0
        self.written_by: Counter[int] = Counter()
        self.bytes_by: Counter[int] = Counter()
        least = self._base_bytes + self._cost(file_bytes(1))
        if budget_bytes < least:
            raise ConfigError(
                f"{budget_bytes} bytes of disk have no room for a page besides the index",
                hint=f"give at least {least} bytes, or no directory",
            )

    def adopt(self, row: Row) -> None:
        """A file that is there already, used later than all before."""
        record = _record(row, self._cost(row.bytes))
        self.used_bytes += record.cost
        self.begin(record)
        self.finish(record)

    def expect(self, row: Row, index: DiskIndex) -> FileRecord:
        """Make room for a file and charge it. Raises TierFault."""
        cost = self._cost(row.bytes)
        self.make_room(cost, index)
        self.used_bytes += cost
        record = _record(row, cost)
        self.begin(record)
        return record

    def publish(self, record: FileRecord, temporary: str) -> str:
        """Give an expected file its name. Raises OSError."""
        final = self._directory.file_of(record.place)
        os.replace(temporary, final)
        self.finish(record)
        return final

    def finish(self, record: FileRecord) -> None:
        super().finish(record)
        self._count(record, 1)

    def remove(self, record: FileRecord) -> bool:
        if not record.gone:
            self._count(record, -1)
        return super().remove(record)

    def discard(self, record: FileRecord, temporary: str) -> None:
        """Of a file that will not get its name."""
        self.abandon(record)
        if _removed(temporary):
            self.used_bytes -= record.cost

    def make_room(self, cost: int, index: DiskIndex) -> None:
        """Remove the least recently used files until ``cost`` more fits. Raises TierFault."""
        possible = self._base_bytes + cost <= self.budget_bytes
        while self.used_bytes + cost > self.budget_bytes:
            oldest = self.oldest() if possible else None
            if oldest is None:
                raise TierFault(
                    Fault.FULL, f"no room for {cost} bytes: {self.used_bytes} of {self.budget_bytes} are in use"
                )
            if not self._unlink(oldest):
                self.use(oldest.place)  # or it would be in the way of all others
                raise TierFault(Fault.FAILED, "no room can be made: a file cannot be removed")
            if self.remove(oldest):
                self.give_back(oldest)
            index.remove(oldest.number)
            self.dropped_pages += 1

    def forget(self, record: FileRecord, index: DiskIndex) -> None:
        """Remove a file that its caller is reading."""
        if not record.gone:
            self._unlink(record)
            self.remove(record)
            index.remove(record.number)

    def forget_all(self, index: DiskIndex) -> int:
        """Remove everything. Returns how many files could not be removed."""
        records = self.records()
        stuck = sum(not self._unlink(record) for record in records)
        for record in self.clear():
            self.give_back(record)
        for record in records:
            index.remove(record.number)
        return stuck

    def give_back(self, record: FileRecord) -> None:
        """The room of a file that was removed, and that nobody reads from."""
        if not record.stuck:
            self.used_bytes -= record.cost

    def _count(self, record: FileRecord, more: int) -> None:
        self.written_by[record.writer] += more
        self.bytes_by[record.writer] += more * record.cost

    def _unlink(self, record: FileRecord) -> bool:
        record.stuck = not _removed(self._directory.file_of(record.place))
        return not record.stuck

    def _cost(self, num_bytes: int) -> int:
        return self._directory.occupied_bytes(num_bytes) + ENTRY_BYTES


def _record(row: Row, cost: int) -> FileRecord:
    return FileRecord(row.place, number=row.number, bytes=row.bytes, cost=cost, used=row.used, writer=row.writer)


def _removed(file: str) -> bool:
    """Remove a file. Returns whether it is not there any more."""
    try:
        os.unlink(file)
    except OSError as error:
        return isinstance(error, FileNotFoundError)
    return True
