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
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from kvloom.errors import ConfigError
from kvloom.memory.tier.base import Fault, Foreign, Place, StoredPage, TierFault, TierUsage
from kvloom.memory.tier.disk_books import DiskBooks, FileRecord
from kvloom.memory.tier.disk_directory import CacheDirectory
from kvloom.memory.tier.disk_index import DiskIndex, Row
from kvloom.memory.tier.disk_recovery import recover
from kvloom.memory.tier.disk_sync import SyncGroup
from kvloom.memory.tier.disk_writers import known_writers
from kvloom.memory.tier.page_file import file_bytes, read_file, verify_file, write_fault, write_file
from kvloom.memory.tier.writer import Other, Writer

_DAMAGED = (Fault.GONE, Fault.SHORT, Fault.CORRUPT)


class DiskTier:
    """A tier in a directory, which is made if there is none and can be used by one process at a time.

    Raises ConfigError if it cannot be used, or the budget has no room for a single page. If there is more in it than
    the budget allows, the least recently used pages are removed at once. ``clock``: seconds since 1970. ``writer``: of
    what is written, None says nothing. ``writers``: all that are known, by the number in headers of pages.
    ``repairs``: what had to be tidied up at the start.
    """

    name = "disk"

    def __init__(
        self,
        directory: Path,
        budget_bytes: int,
        clock: Callable[[], float] = time.time,
        writer: Writer | None = None,
    ) -> None:
        self._clock, self._writer = clock, writer
        self._lock = threading.Lock()
        self._sync = SyncGroup()
        self._closed = False
        with contextlib.ExitStack() as undo:
            self._directory = CacheDirectory(directory)
            undo.callback(self._directory.close)
            self.writers = known_writers(directory, writer)
            self._books = DiskBooks(self._directory, budget_bytes)
            self._index = DiskIndex(self._directory.index)
            undo.callback(self._index.close)
            self._adopt_what_is_there()
            undo.pop_all()

    def _adopt_what_is_there(self) -> None:
        rows, self.repairs = recover(self._directory, self._index)
        for row in rows:
            self._books.adopt(row)
        try:
            self._books.make_room(0, self._index)
        except TierFault as fault:
            raise ConfigError(f"the cache in `{self._directory.path}` cannot be made smaller: {fault}") from fault
        self._index.commit()

    # -- the protocol ----------------------------------------------------------------------------------------------

    def holds(self, place: Place) -> bool:
        return place in self._books

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
            stuck = 0 if self._closed else self._books.forget_all(self._index)
        self._index.commit()
        if stuck:
            raise TierFault(Fault.FAILED, f"{stuck} files could not be removed")

    def usage(self) -> TierUsage:
        books = self._books
        return TierUsage(books.budget_bytes, books.used_bytes, len(books), books.dropped_pages, self._foreign())

    def other_writers(self) -> list[Other]:
        there = [tag for tag, pages in list(self._books.written_by.items()) if pages and tag != self._tag]
        known = [self.writers[tag] for tag in there if tag in self.writers] if self._writer is not None else []
        return [Other(writer, self._writer.differs(writer)) for writer in known if self._writer is not None]

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
            return [record.row() for record in self._books.records()]

    def verify(self, place: Place) -> None:
        """Read a page to no end. The time of its last use stays. Raises TierFault; a damaged page is removed."""
        with self._reading(place):
            verify_file(self._directory.file_of(place), place)

    def damage(self, place: Place, damage: Callable[[bytes], bytes]) -> None:
        """See ``faulty``."""
        with contextlib.suppress(FileNotFoundError), open(self._directory.file_of(place), "r+b") as file:
            changed = damage(file.read())
            file.seek(0)
            file.write(changed)
            file.truncate()

    @property
    def _tag(self) -> int:
        return 0 if self._writer is None else self._writer.tag

    def _foreign(self) -> dict[str, Foreign]:
        """What others wrote, by what they differ in; what does not say who wrote it may be our own."""
        if self._writer is None:
            return {}
        pages, occupied = Counter[str](), Counter[str]()
        for tag, count in list(self._books.written_by.items()):
            if tag not in (0, self._tag) and count:
                differs = self._writer.differs(self.writers.get(tag))
                pages[differs] += count
                occupied[differs] += self._books.bytes_by[tag]
        return {differs: Foreign(count, occupied[differs]) for differs, count in pages.items()}

    # -- writing ---------------------------------------------------------------------------------------------------

    def _expected(self, page: StoredPage) -> FileRecord | None:
        """Charge a page that is to be written; None if it is there, or being written. Raises TierFault."""
        with self._lock:
            if self._closed:
                raise TierFault(Fault.FAILED, "the disk tier was closed")
            there = self._books.use(page.place)
            if there is not None:
                self._touch(there)
            if there is not None or self._books.is_coming(page.place):
                return None
            row = Row(self._index.number(), page.place, file_bytes(page.data.nbytes), self._clock(), self._tag)
            return self._books.expect(row, self._index)

    def _store(self, page: StoredPage, record: FileRecord) -> None:
        """Raises TierFault; nothing is left behind then."""
        temporary = self._directory.temporary_of(record.place)
        try:
            self._write(temporary, page)
            self._publish(record, temporary)
        except BaseException as error:
            with self._lock:
                self._books.discard(record, temporary)
            if isinstance(error, OSError):
                raise write_fault(error) from error
            raise

    def _publish(self, record: FileRecord, temporary: str) -> None:
        """Let a page be found, unless everything was forgotten while it was written. Raises OSError."""
        with self._lock:
            if self._closed or not self._books.expects(record):
                self._books.discard(record, temporary)
                return
            self._sync.add(self._books.publish(record, temporary), record.bytes)
            self._index.add(record.row())

    def _write(self, temporary: str, page: StoredPage) -> None:
        try:
            write_file(temporary, page, self._tag)
        except FileNotFoundError:
            self._directory.make_folder(page.place)
            write_file(temporary, page, self._tag)

    # -- reading ---------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _reading(self, place: Place) -> Iterator[FileRecord]:
        """Pin a page meanwhile, and remove it if it turns out to be damaged. Raises TierFault."""
        with self._lock:
            record = None if self._closed else self._books.pin(place)
        if record is None:
            raise TierFault(Fault.GONE, "the page is not on disk any more")
        try:
            yield record
        except TierFault as fault:
            if fault.fault in _DAMAGED:
                with self._lock:
                    self._books.forget(record, self._index)
            raise
        finally:
            with self._lock:
                if self._books.unpin(record):
                    self._books.give_back(record)

    def _touch(self, record: FileRecord) -> None:
        record.used = self._clock()
        self._index.touch(record.number, record.used)
