"""One page in one file, ``KEY-GROUP.kv``: the header (``page_header``), then the page's bytes, and nothing after them.

The name is the key in hexadecimal and the layer group, so that a directory's listing says what is there. A file never
changes once it has its name.
"""

from __future__ import annotations

import errno
import os
import re

from kvloom.memory.tier.base import Fault, Place, StoredPage, TierFault
from kvloom.memory.tier.page_header import (
    HEADER_BYTES,
    PageHeader,
    check_header,
    pack_header,
    payload_digest,
    unpack_header,
)
from kvloom.segment import PageKey

_NAME = re.compile(r"([0-9a-f]{64})-(0|[1-9][0-9]{0,4})\.kv")
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def page_name(place: Place) -> str:
    return f"{place.key.hex()}-{place.group}.kv"


def place_of(name: str) -> Place | None:
    """What ``page_name`` made the name of; None for any other name."""
    match = _NAME.fullmatch(name)
    return Place(PageKey(bytes.fromhex(match[1])), int(match[2])) if match else None


def file_bytes(payload_bytes: int) -> int:
    """Length of the file of a page."""
    return HEADER_BYTES + payload_bytes


def write_file(path: str, page: StoredPage, writer: int = 0) -> None:
    """Write a page to a new file that only its owner may read: KV tells the text. Raises OSError; what is there then
    is for the caller to remove."""
    file = os.open(path, _WRITE, 0o600)
    try:
        rest = [memoryview(pack_header(page, writer)), page.data]
        while rest:
            written = os.writev(file, rest)
            while rest and written >= rest[0].nbytes:
                written -= rest.pop(0).nbytes
            if rest:
                rest[0] = rest[0][written:]
    finally:
        os.close(file)


def read_file(path: str, place: Place, tokens: tuple[int, ...], into: memoryview) -> None:
    """Fill ``into`` with the page of a file in one read, and verify place, tokens, length and digest.

    Raises TierFault: GONE, SHORT, CORRUPT, DIFFERS or FAILED.
    """
    head, beyond = bytearray(HEADER_BYTES), bytearray(1)
    count = _read(path, [head, into, beyond])
    header = unpack_header(bytes(head[:count]))
    check_header(header, place, tokens, into.nbytes)
    if count < file_bytes(into.nbytes):
        raise TierFault(Fault.SHORT, f"{count} bytes in the file of a page of {into.nbytes}")
    if count > file_bytes(into.nbytes):
        raise TierFault(Fault.CORRUPT, f"more bytes in the file of a page of {into.nbytes} than belong to it")
    if payload_digest(into) != header.digest:
        raise TierFault(Fault.CORRUPT, "the page's bytes are not those that were written")


def read_header(path: str, place: Place) -> PageHeader:
    """The header of the file at ``place``. Raises TierFault as ``read_file`` does, if it is not of this place."""
    head = bytearray(HEADER_BYTES)
    header = unpack_header(bytes(head[: _read(path, [head])]))
    check_header(header, place, header.tokens, header.payload_bytes)
    return header


def verify_file(path: str, place: Place) -> None:
    """Read all of a file, whatever its tokens. Raises TierFault as ``read_file`` does."""
    header = read_header(path, place)
    try:
        found = os.stat(path).st_size
    except OSError as error:
        raise read_fault(error) from error
    if found < file_bytes(header.payload_bytes):  # before memory is taken for what a header promises
        raise TierFault(Fault.SHORT, f"{found} bytes in the file of a page of {header.payload_bytes}")
    read_file(path, place, header.tokens, memoryview(bytearray(header.payload_bytes)))


def read_fault(error: OSError) -> TierFault:
    fault = Fault.GONE if error.errno in (errno.ENOENT, errno.ENOTDIR) else Fault.FAILED
    return TierFault(fault, f"a page cannot be read: {error.strerror or error}")


def write_fault(error: OSError) -> TierFault:
    fault = Fault.FULL if error.errno in _FULL else Fault.FAILED
    return TierFault(fault, f"a page cannot be written: {error.strerror or error}")


def _read(path: str, into: list[bytearray | memoryview]) -> int:
    """Fill the buffers from a file's begin. Returns how many bytes there were. Raises TierFault."""
    try:
        file = os.open(path, _READ)
        try:
            return os.preadv(file, into, 0)
        finally:
            os.close(file)
    except OSError as error:
        raise read_fault(error) from error
