"""Disk: pages in files, found again after a restart, however the process ended.

What is promised, and how:

- **Wrong bytes are never reported as read.** Header and payload carry digests, and every read verifies them
  (``page_file``). A damaged file is removed when it is noticed.
- **A page can be found once its file has its name.** It is written under a temporary name in the same folder and then
  renamed. A process that is killed at any moment leaves whole pages and temporary files, which the next start removes.
- **A page survives a power failure once it was synced**, at the latest after ``SYNC_BYTES`` more were written, or by
  ``flush`` or ``close``. It is not synced before it is renamed: that would only make torn files rarer, which digests
  find anyway, and a page that is lost is a miss. Syncing in groups costs one journal commit for many pages, and what
  waits for the disk stays bounded.
- **The budget holds**: files in whole blocks, temporary ones included, with the directories, the index on disk and
  what a page costs in RAM. A page is charged before it is written; room is given back after a file was removed and
  nobody reads from it.

One lock is held for bookkeeping, which includes renaming and removing a file, never while bytes are copied. ``holds``
and ``usage`` wait for nothing.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from kvloom.errors import ConfigError
from kvloom.memory.tier.base import Fault, Place, StoredPage, TierFault, TierUsage
from kvloom.memory.tier.disk_directory import CacheDirectory
from kvloom.memory.tier.disk_index import INDEX_BYTES, DiskIndex, Row
from kvloom.memory.tier.disk_recovery import recover
from kvloom.memory.tier.disk_sync import SyncGroup
from kvloom.memory.tier.page_file import file_bytes, read_file, verify_file, write_fault, write_file
from kvloom.memory.tier.shelf import Record, Shelf

ENTRY_BYTES = 1024
"""Charged per page besides its file: record in RAM (measured: 0.6 KB), row, entry in a folder, inode."""

_DAMAGED = (Fault.GONE, Fault.SHORT, Fault.CORRUPT)


@dataclass(slots=True, eq=False, kw_only=True)
class FileRecord(Record):
    """``number``: its row's. ``bytes``: length of the file. ``cost``: what is charged. ``used``: seconds since 1970.

    ``stuck``: its file cannot be removed.
    """

    number: int
    bytes: int
    cost: int
    used: float
    stuck: bool = False


class DiskTier:
    """A tier in a directory, which is made if there is none and can be used by one process at a time.

    Raises ConfigError if it cannot be used, or the budget has no room for a single page. If there is more in it than
    the budget allows, the least recently used pages are removed at once. ``clock``: seconds since 1970.
    """

    name = "disk"

    def __init__(self, directory: Path, budget_bytes: int, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._shelf: Shelf[FileRecord] = Shelf()
        self._sync = SyncGroup()
        self._dropped = 0
        self._closed = False
        self._directory = CacheDirectory(directory)
        self._budget_bytes = budget_bytes
        self._base_bytes = self._used_bytes = self._directory.own_bytes + INDEX_BYTES
        try:
            self._check_budget()
            self._index = DiskIndex(self._directory.index)
            self._adopt_what_is_there()
        except BaseException:
            self._directory.close()
            raise

    # -- the protocol ----------------------------------------------------------------------------------------------

    def holds(self, place: Place) -> bool:
        return place in self._shelf

    def write(self, page: StoredPage) -> None:
        self._sync.flush_when_due()
        record = self._expected(page)
        if record is not None:
            self._store(page, record)
        self._index.commit_when_due()

    def read(self, place: Place, tokens: tuple[int, ...], into: memoryview) -> None:
        with self._reading(place) as record:
            read_file(self._directory.file_of(place), place, tokens, into)
            self._touch(record)
        self._index.commit_when_due()

    def clear(self) -> None:
        """Raises TierFault if some files could not be removed: they would be found again by the next start."""
        with self._lock:
            records = self._shelf.records()
            left = [record for record in records if not self._unlink(record)]
            for record in self._shelf.clear():
                self._give_back(record)
        for record in records:
            self._index.remove(record.number)
            self._index.commit_when_due()
        self._index.commit()
        if left:
            raise TierFault(Fault.FAILED, f"{len(left)} of {len(records)} files could not be removed")

    def usage(self) -> TierUsage:
        return TierUsage(self._budget_bytes, self._used_bytes, len(self._shelf), self._dropped)

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
        with contextlib.suppress(TierFault):
            self.flush()
        self._index.close()
        self._directory.close()

    # -- beyond it -------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """What has been written survives a power failure after this. Raises TierFault."""
        self._sync.flush()
        self._index.commit()

    def rows(self) -> list[Row]:
        """What is there, from the least recently used on."""
        with self._lock:
            return [Row(each.number, each.place, each.bytes, each.used) for each in self._shelf.records()]

    def verify(self, place: Place) -> None:
        """Read a page and forget it, without counting that as a use. Raises TierFault; damaged pages are removed."""
        with self._reading(place):
            verify_file(self._directory.file_of(place), place)

    def damage(self, place: Place, damage: Callable[[bytes], bytes]) -> None:
        """See ``faulty``."""
        with contextlib.suppress(FileNotFoundError), open(self._directory.file_of(place), "r+b") as file:
            changed = damage(file.read())
            file.seek(0)
            file.write(changed)
            file.truncate()

    # -- the start -------------------------------------------------------------------------------------------------

    def _check_budget(self) -> None:
        least = self._base_bytes + self._cost(file_bytes(1))
        if self._budget_bytes < least:
            raise ConfigError(
                f"{self._budget_bytes} bytes of disk have no room for a page besides the index",
                hint=f"give at least {least} bytes, or no directory",
            )

    def _adopt_what_is_there(self) -> None:
        rows, self.repairs = recover(self._directory, self._index)
        for row in rows:
            record = FileRecord(
                row.place, number=row.number, bytes=row.bytes, cost=self._cost(row.bytes), used=row.used
            )
            self._used_bytes += record.cost
            self._shelf.begin(record)
            self._shelf.finish(record)
        try:
            self._make_room(0)
        except TierFault as fault:
            raise ConfigError(f"the cache in `{self._directory.path}` cannot be made smaller: {fault}") from fault
        self._index.commit()

    # -- writing ---------------------------------------------------------------------------------------------------

    def _expected(self, page: StoredPage) -> FileRecord | None:
        """Charge a page that is to be written; None if that is done already, or being done. Raises TierFault."""
        num_bytes = file_bytes(page.data.nbytes)
        with self._lock:
            if self._closed:
                raise TierFault(Fault.FAILED, "the disk tier was closed")
            there = self._shelf.use(page.place)
            if there is not None:
                self._touch(there)
            if there is not None or self._shelf.is_coming(page.place):
                return None
            cost = self._cost(num_bytes)
            self._make_room(cost)
            self._used_bytes += cost
            record = FileRecord(page.place, number=self._index.number(), bytes=num_bytes, cost=cost, used=self._clock())
            self._shelf.begin(record)
            return record

    def _store(self, page: StoredPage, record: FileRecord) -> None:
        """Raises TierFault; nothing is left behind then."""
        temporary = self._directory.temporary_of(record.place, record.number)
        try:
            self._write(temporary, page)
            with self._lock:
                if self._closed or not self._shelf.expects(record):
                    self._discard(record, temporary)
                    return
                final = self._directory.file_of(record.place)
                os.replace(temporary, final)
                self._index.add(Row(record.number, record.place, record.bytes, record.used))
                self._shelf.finish(record)
                self._sync.add(final, record.bytes)
        except BaseException as error:
            with self._lock:
                self._discard(record, temporary)
            if isinstance(error, OSError):
                raise write_fault(error) from error
            raise

    def _write(self, temporary: Path, page: StoredPage) -> None:
        try:
            write_file(temporary, page)
        except FileNotFoundError:
            self._directory.make_folder(page.place)
            write_file(temporary, page)

    def _discard(self, record: FileRecord, temporary: Path) -> None:
        """Of a page that will not be there. What cannot be removed stays charged."""
        self._shelf.abandon(record)
        if _removed(temporary):
            self._used_bytes -= record.cost

    # -- reading ---------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _reading(self, place: Place) -> Iterator[FileRecord]:
        """Pin a page meanwhile, and remove it if it turns out to be damaged. Raises TierFault."""
        with self._lock:
            record = None if self._closed else self._shelf.pin(place)
        if record is None:
            raise TierFault(Fault.GONE, "the page is not on disk any more")
        try:
            yield record
        except TierFault as fault:
            if fault.fault in _DAMAGED:
                self._forget(record)
            raise
        finally:
            with self._lock:
                if self._shelf.unpin(record):
                    self._give_back(record)

    def _touch(self, record: FileRecord) -> None:
        record.used = self._clock()
        self._index.touch(record.number, record.used)

    # -- what goes -------------------------------------------------------------------------------------------------

    def _make_room(self, cost: int) -> None:
        """Remove least recently used pages until ``cost`` more fits. The lock is held. Raises TierFault."""
        possible = self._base_bytes + cost <= self._budget_bytes
        while self._used_bytes + cost > self._budget_bytes:
            oldest = self._shelf.oldest() if possible else None
            if oldest is None:
                raise TierFault(
                    Fault.FULL, f"no room for {cost} bytes: {self._used_bytes} of {self._budget_bytes} are in use"
                )
            if not self._unlink(oldest):
                raise TierFault(Fault.FAILED, "no room can be made: a file cannot be removed")
            self._shelf.remove(oldest)
            self._give_back(oldest)
            self._index.remove(oldest.number)
            self._dropped += 1

    def _forget(self, record: FileRecord) -> None:
        """Of a page that its caller is reading."""
        with self._lock:
            if not record.gone:
                self._unlink(record)
                self._shelf.remove(record)
                self._index.remove(record.number)

    def _unlink(self, record: FileRecord) -> bool:
        """Whether it is gone; if not, it stays charged, whoever forgets it."""
        removed = _removed(self._directory.file_of(record.place))
        record.stuck = not removed
        return removed

    def _give_back(self, record: FileRecord) -> None:
        if not record.stuck:
            self._used_bytes -= record.cost

    def _cost(self, num_bytes: int) -> int:
        return self._directory.occupied_bytes(num_bytes) + ENTRY_BYTES


def _removed(file: Path) -> bool:
    """Remove a file. Returns whether it is not there any more."""
    try:
        file.unlink(missing_ok=True)
    except OSError:
        return False
    return True
