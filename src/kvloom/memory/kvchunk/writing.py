"""A kvchunk into a file: written whole, or not at all."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
from collections.abc import Sequence
from pathlib import Path

import xxhash

from kvloom.memory.kvchunk.chunk import KvChunk
from kvloom.memory.kvchunk.container import pack_header
from kvloom.memory.kvchunk.metadata import metadata_of, token_bytes, with_digest
from kvloom.memory.kvchunk.numbers import packed
from kvloom.memory.kvchunk.refusal import ChunkRefused, Refusal

_TEMPORARY = ".tmp"
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


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
    return [with_digest(blank, digest.hexdigest()), *data]


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


def remove_unfinished(directory: Path, suffix: str) -> int:
    """Remove what dead writers of files with this ``suffix`` have left. Returns how many files that were."""
    removed = 0
    for path in directory.glob(f".*{suffix}.*{_TEMPORARY}"):
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
        temporary = path.parent / f".{path.name}.{secrets.token_hex(8)}{_TEMPORARY}"
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
