"""At the start: what the directory has and what the index says are made to agree. The files decide.

    a temporary file          was being written when the process died: removed
    a file without a row      adopted by its header if it is whole, else removed
    a file of another length  than its row says: the same
    a row without a file      dropped

Pages are not read here: what is damaged inside is found when it is used.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from kvloom.memory.tier.base import Place, TierFault
from kvloom.memory.tier.disk_directory import CacheDirectory, is_temporary, unusable
from kvloom.memory.tier.disk_index import DiskIndex, Row
from kvloom.memory.tier.page_file import file_bytes, place_of, read_header
from kvloom.memory.tier.page_header import PageHeader


@dataclass(slots=True)
class Repairs:
    """How many of each there were."""

    temporary: int = 0
    adopted: int = 0
    damaged: int = 0
    missing: int = 0


def recover(directory: CacheDirectory, index: DiskIndex) -> tuple[list[Row], Repairs]:
    """The pages that are there, from the least recently used on. Raises ConfigError where the system says no."""
    repairs, rows, found = Repairs(), index.take_rows(), list[Row]()
    try:
        for file in directory.files():
            place = place_of(file.name)
            if not file.is_file(follow_symlinks=False):
                continue  # what is not ours stays, uncounted
            if is_temporary(file.name):
                os.unlink(file)
                repairs.temporary += 1
            elif place is not None and file.path == directory.file_of(place):
                found += _found(file, place, rows.pop(place, None), index, repairs)
    except OSError as error:
        raise unusable(directory.path, error) from error
    for row in rows.values():
        repairs.missing += 1
        index.remove(row.number)
    index.commit()
    return sorted(found, key=lambda row: (row.used, row.number)), repairs


def _found(file: os.DirEntry[str], place: Place, row: Row | None, index: DiskIndex, repairs: Repairs) -> list[Row]:
    """The page in a file, if it is one. Raises OSError."""
    stat = file.stat(follow_symlinks=False)
    if row is not None and row.bytes == stat.st_size:
        return [row]
    if row is not None:
        index.remove(row.number)
    header = _whole(file.path, place, stat.st_size)
    if header is None:
        os.unlink(file)
        repairs.damaged += 1
        return []
    adopted = Row(index.number(), place, stat.st_size, stat.st_mtime, header.writer)
    index.add(adopted)
    repairs.adopted += 1
    return [adopted]


def _whole(path: str, place: Place, num_bytes: int) -> PageHeader | None:
    """The header of a page that is whole as far as that and the length tell."""
    try:
        header = read_header(path, place)
    except TierFault:
        return None
    return header if file_bytes(header.payload_bytes) == num_bytes else None
