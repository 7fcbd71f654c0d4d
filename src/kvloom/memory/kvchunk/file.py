"""A kvchunk in a file: written whole or not at all, and verified whole before any of it is used."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash

from kvloom.arrays import Floats
from kvloom.memory.kvchunk.chunk import KvChunk
from kvloom.memory.kvchunk.container import (
    LENGTH_BYTES,
    Entry,
    Header,
    header_length,
    pack_header,
    unpack_header,
)
from kvloom.memory.kvchunk.metadata import (
    DIGEST_DIGITS,
    NO_DIGEST,
    Described,
    check_version,
    described,
    metadata_of,
    token_bytes,
)
from kvloom.memory.kvchunk.numbers import packed, unpacked
from kvloom.memory.kvchunk.refusal import ChunkRefused, Refusal

TEMPORARY = ".tmp"

_MARK = b'"digest":"'
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


# -- bytes -------------------------------------------------------------------------------------------------------------


def file_parts(chunk: KvChunk) -> list[bytes]:
    """All bytes of the file of a chunk, one part after another."""
    tensors: list[tuple[str, str, tuple[int, ...]]] = [("tokens", "I32", (len(chunk.identity.tokens),))]
    data = [token_bytes(chunk.identity.tokens)]
    for kind, dtype, of_layers in (("k", chunk.k_dtype, chunk.keys), ("v", chunk.v_dtype, chunk.values)):
        for layer in chunk.layers:
            tensors.append((f"{kind}.{layer}", dtype, of_layers[layer].shape))
            data.append(packed(of_layers[layer], dtype))
    digests = {name: xxhash.xxh3_128_hexdigest(part) for (name, _, _), part in zip(tensors, data, strict=True)}
    blank = pack_header(metadata_of(chunk, digests), tensors)
    digest = xxhash.xxh3_128(blank)
    for part in data:
        digest.update(part)
    return [_with_digest(blank, digest.hexdigest()), *data]


def _with_digest(header: bytes, digest: str) -> bytes:
    """Raises ChunkRefused when a header has no place for it."""
    at = _digest_at(header)
    return header[:at] + digest.encode() + header[at + DIGEST_DIGITS :]


def _digest_at(header: bytes) -> int:
    """Where the file's digest stands: after the only ``"digest":"``. Raises ChunkRefused."""
    if header.count(_MARK) != 1:
        raise ChunkRefused(Refusal.MALFORMED, "the header has no digest of the file, or more than one")
    return header.index(_MARK) + len(_MARK)


# -- reading -----------------------------------------------------------------------------------------------------------


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
    digest = xxhash.xxh3_128(_with_digest(opened.raw, NO_DIGEST))
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


# -- writing -----------------------------------------------------------------------------------------------------------


def write_parts(path: Path, parts: Sequence[bytes]) -> None:
    """Let a file have these contents, whole and synced, from the moment when it has its name.

    It may have been there: it is replaced. Only its owner may read it, as KV tells the text. Raises ChunkRefused; no
    part of it is left behind then. A process that dies leaves a file that ``remove_unfinished`` knows.
    """
    try:
        file, temporary = _locked_temporary(path)
        try:
            _write(file, parts)
            os.fsync(file)
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        finally:
            os.close(file)
        _sync_directory(path.parent)
    except OSError as error:
        refusal = Refusal.FULL if error.errno in _FULL else Refusal.FAILED
        raise ChunkRefused(refusal, f"`{path}` cannot be written: {error.strerror or error}") from error


def remove_unfinished(directory: Path) -> int:
    """Remove what writers that are dead have left. Returns how many files that were."""
    removed = 0
    for path in directory.glob(f".*{TEMPORARY}"):
        with contextlib.suppress(OSError):
            file = os.open(path, _READ)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while its writer lives
                os.unlink(path)
                removed += 1
            finally:
                os.close(file)
    return removed


def _locked_temporary(path: Path) -> tuple[int, Path]:
    """A new file beside ``path``, locked for as long as it is open."""
    while True:
        temporary = path.parent / f".{path.name}.{secrets.token_hex(8)}{TEMPORARY}"
        file = os.open(temporary, _WRITE, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            if os.fstat(file).st_nlink:  # nobody has taken it for a dead writer's before it was locked
                return file, temporary
        except BaseException:
            os.close(file)
            raise
        os.close(file)


def _write(file: int, parts: Sequence[bytes]) -> None:
    for part in parts:
        rest = memoryview(part)
        while rest:
            rest = rest[os.write(file, rest) :]


def _sync_directory(directory: Path) -> None:
    file = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)
