"""A kvchunk out of a file: verified whole before any of it is used."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash

from kvloom.arrays import Floats
from kvloom.memory.kvchunk.chunk import KvChunk
from kvloom.memory.kvchunk.container import LENGTH_BYTES, Entry, Header, header_length, unpack_header
from kvloom.memory.kvchunk.metadata import NO_DIGEST, Described, check_version, described, with_digest
from kvloom.memory.kvchunk.numbers import unpacked
from kvloom.memory.kvchunk.refusal import ChunkRefused, Refusal

_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK


@dataclass(frozen=True, slots=True)
class _Opened:
    """``raw``: all bytes before the data. ``data_bytes``: what follows them."""

    file: int
    raw: bytes
    data_bytes: int
    header: Header
    said: Described


def read_chunk(path: Path) -> KvChunk:
    """All of a file, verified. Raises ChunkRefused."""
    with _opened(path) as opened:
        data, said = memoryview(_verified(opened)), opened.said

    def numbers(of_layers: Mapping[int, Entry]) -> dict[int, Floats]:
        items = sorted(of_layers.items())
        return {layer: unpacked(data[at.start : at.stop], at.dtype, at.shape) for layer, at in items}

    return KvChunk(
        identity=said.identity,
        turns=said.turns,
        keys=numbers(said.k),
        values=numbers(said.v),
        k_dtype=said.k_dtype,
        v_dtype=said.v_dtype,
        same_bits=said.same_bits,
        created_by=said.created_by,
    )


def describe_file(path: Path) -> Described:
    """What a file says of itself. Its numbers are not read, so nothing is known of them. Raises ChunkRefused."""
    with _opened(path) as opened:
        return opened.said


def verify_file(path: Path) -> Described:
    """Read all of a file to no end. Raises ChunkRefused."""
    with _opened(path) as opened:
        _verified(opened)
        return opened.said


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[_Opened]:
    try:
        file = os.open(path, _READ)
    except OSError as error:
        raise _read_refused(error) from error
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            raise ChunkRefused(Refusal.GONE, f"`{path}` is not a file")
        yield _with_header(file, status.st_size)
    except OSError as error:
        raise _read_refused(error) from error
    finally:
        os.close(file)


def _with_header(file: int, file_bytes: int) -> _Opened:
    first = os.pread(file, LENGTH_BYTES, 0)
    raw = first + _read(file, header_length(first, file_bytes), LENGTH_BYTES)
    data_bytes = file_bytes - len(raw)
    header = unpack_header(raw[LENGTH_BYTES:], data_bytes)
    check_version(header.metadata)
    entry = header.tensors.get("tokens")
    if entry is None or entry.dtype != "I32" or len(entry.shape) != 1:
        raise ChunkRefused(Refusal.MALFORMED, "it has no list of tokens")
    tokens = np.frombuffer(_read(file, entry.nbytes, len(raw) + entry.start), "<i4").tolist()
    return _Opened(file, raw, data_bytes, header, described(header, tuple(tokens)))


def _verified(opened: _Opened) -> bytearray:
    """The data. Raises ChunkRefused when a bit of the file is not what was written."""
    data = _read(opened.file, opened.data_bytes, len(opened.raw))
    digest = xxhash.xxh3_128(with_digest(opened.raw, NO_DIGEST))
    digest.update(data)
    view = memoryview(data)
    parts = {name: view[entry.start : entry.stop] for name, entry in opened.header.tensors.items()}
    damaged = [name for name, part in parts.items() if xxhash.xxh3_128_hexdigest(part) != opened.said.digests[name]]
    if damaged or digest.hexdigest() != opened.said.digest:
        raise ChunkRefused(Refusal.CORRUPT, f"the bytes of {', '.join(damaged) or 'the header'} are not as written")
    return data


def _read(file: int, count: int, at: int) -> bytearray:
    """Exactly so many bytes, which a file of this size should have. Raises ChunkRefused when it has become shorter."""
    data = bytearray(count)
    view, done = memoryview(data), 0
    while done < count:
        got = os.preadv(file, [view[done:]], at + done)
        if not got:
            raise ChunkRefused(Refusal.SHORT, f"{done} bytes at {at}, where {count} should be")
        done += got
    return data


def _read_refused(error: OSError) -> ChunkRefused:
    refusal = Refusal.GONE if error.errno in (errno.ENOENT, errno.ENOTDIR) else Refusal.FAILED
    return ChunkRefused(refusal, f"a chunk cannot be read: {error.strerror or error}")
