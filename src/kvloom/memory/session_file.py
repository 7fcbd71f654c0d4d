"""Sessions in files: the pages of one text, as they lie in memory, for the engine that wrote them or an equal one.

A strict safetensors file in kvchunk's container:

    tokens       I32 [n]
    at.G         I32 [p]        which pages of the text layer group G has, by number, ascending
    pages.G      I32 [p, w]     their bytes, four at a time

Metadata names the weights, the page formats and the root (see ``keys``), and has a digest of every tensor and one of
all metadata: a file that is damaged, or of anything else, is refused before a page is taken for it. The digests detect
damage, not forgery: who can write here can write KV.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash

from kvloom.arrays import Bytes
from kvloom.errors import SessionRefused
from kvloom.memory.keys import KEY_VERSION
from kvloom.memory.kvchunk.container import LENGTH_BYTES, Header, header_length, pack_header, unpack_header
from kvloom.memory.kvchunk.refusal import ChunkRefused
from kvloom.memory.kvchunk.writing import write_parts
from kvloom.segment import PageKey

SUFFIX = ".kvsession.safetensors"
VERSION = 1

_FORMAT = "kvloom-session"
_WORD = 4


@dataclass(frozen=True, slots=True)
class Session:
    """The KV of one text. ``pages``: by layer group, the bytes of each page that there is, by its number in the text.
    All pages but the last are full. ``root``: key of the text's empty prefix.
    """

    weights: str
    formats: str
    root: PageKey
    tokens: tuple[int, ...]
    pages: tuple[Mapping[int, Bytes], ...]


def write_session(path: Path, session: Session) -> int:
    """Write a file, whole or not at all. Returns its bytes. Raises SessionRefused when that is not possible."""
    tensors, data = _tensors(session)
    digests = {name: xxhash.xxh3_128_hexdigest(part) for (name, _, _), part in zip(tensors, data, strict=True)}
    metadata = {
        "format": _FORMAT,
        "version": str(VERSION),
        "keys": str(KEY_VERSION),
        "weights": session.weights,
        "formats": session.formats,
        "root": session.root.hex(),
        "digests": json.dumps(digests, sort_keys=True),
    }
    head = pack_header(metadata | {"digest": _digest(metadata)}, tensors)
    try:
        write_parts(path, [head, *data])
    except ChunkRefused as error:
        raise SessionRefused(str(error)) from None
    return len(head) + sum(map(len, data))


def read_session(path: Path) -> Session:
    """Raises SessionRefused: there is no such file, or it is damaged, or of another version."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = header_length(file.read(LENGTH_BYTES), size)
            header = unpack_header(file.read(length), size - LENGTH_BYTES - length)
            _check_metadata(header.metadata)
            data = np.fromfile(file, np.uint8)
        return _session(header, _verified(header, data))
    except OSError as error:
        raise SessionRefused(f"`{path.name}` cannot be read: {error.strerror}") from None
    except ChunkRefused as error:
        raise SessionRefused(f"`{path.name}` is no session: {error}") from None
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise SessionRefused(f"`{path.name}` is no session: its header lacks something, or it is malformed") from error


def _tensors(session: Session) -> tuple[list[tuple[str, str, tuple[int, ...]]], list[bytes]]:
    tensors: list[tuple[str, str, tuple[int, ...]]] = [("tokens", "I32", (len(session.tokens),))]
    data = [np.array(session.tokens, "<i4").tobytes()]
    for group, pages in enumerate(session.pages):
        at = sorted(pages)
        words = pages[at[0]].nbytes // _WORD if at else 0
        tensors += [(f"at.{group}", "I32", (len(at),)), (f"pages.{group}", "I32", (len(at), words))]
        data += [np.array(at, "<i4").tobytes(), b"".join(pages[n].tobytes() for n in at)]
    return tensors, data


def _check_metadata(metadata: Mapping[str, str]) -> None:
    if metadata.get("format") != _FORMAT or metadata.get("version") != str(VERSION):
        raise SessionRefused(f"it is not a `{_FORMAT}` of version {VERSION}")
    if metadata.get("keys") != str(KEY_VERSION):
        raise SessionRefused("it was written by a version of kvloom that names pages otherwise")
    if metadata.get("digest") != _digest({name: text for name, text in metadata.items() if name != "digest"}):
        raise SessionRefused("its header is damaged")


def _verified(header: Header, data: Bytes) -> dict[str, Bytes]:
    """The bytes of every tensor."""
    digests = json.loads(header.metadata["digests"])
    found = {name: data[entry.start : entry.stop] for name, entry in header.tensors.items()}
    if digests.keys() != found.keys():
        raise SessionRefused("it does not have the tensors that it names")
    for name, part in found.items():
        if xxhash.xxh3_128_hexdigest(part.data) != digests[name]:
            raise SessionRefused(f"its `{name}` is damaged")
    return found


def _session(header: Header, found: Mapping[str, Bytes]) -> Session:
    groups = sum(name.startswith("at.") for name in found)
    names = {"tokens", *(f"{kind}.{group}" for group in range(groups) for kind in ("at", "pages"))}
    if names != found.keys():
        raise SessionRefused("it has tensors that no session has, or lacks some")
    pages = []
    for group in range(groups):
        at, shape = _numbers(found[f"at.{group}"]), header.tensors[f"pages.{group}"].shape
        if len(shape) != 2 or shape[0] != len(at) or sorted(set(at)) != at:
            raise SessionRefused(f"its pages of layer group {group} are not those that it names")
        rows = found[f"pages.{group}"].reshape(len(at), -1) if at else ()
        pages.append(dict(zip(at, rows, strict=True)))
    said = header.metadata
    root = PageKey(bytes.fromhex(said["root"]))
    return Session(said["weights"], said["formats"], root, tuple(_numbers(found["tokens"])), tuple(pages))


def _numbers(data: Bytes) -> list[int]:
    found: list[int] = np.frombuffer(data.tobytes(), "<i4").tolist()
    return found


def _digest(metadata: Mapping[str, str]) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(dict(metadata), sort_keys=True).encode())
