"""The container of kvchunk files: strict safetensors, whose data begins at a multiple of 4096 bytes.

    8 bytes      N, the length of the header, little-endian
    N bytes      the header, JSON, filled up with spaces
    the rest     the tensors, one after another, without a gap

What is read is validated before memory is taken for it: every length, against the size of the file. Nothing is ever
unpickled or evaluated.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from kvloom.memory.kvchunk.numbers import ITEM_BYTES
from kvloom.memory.kvchunk.refusal import ChunkRefused, Refusal

ALIGNMENT = 4096
MAX_HEADER_BYTES = 64 * 2**20
LENGTH_BYTES = 8

_LENGTH = struct.Struct("<Q")
_ITEM_BYTES = {**ITEM_BYTES, "I32": 4}


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor: bytes ``start`` to ``stop`` of the data."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def nbytes(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Header:
    """``metadata``: text by name. ``tensors``: in the order of their bytes."""

    metadata: Mapping[str, str]
    tensors: Mapping[str, Entry]


def pack_header(metadata: Mapping[str, str], tensors: Sequence[tuple[str, str, tuple[int, ...]]]) -> bytes:
    """All bytes before the data. ``tensors``: name, dtype and shape, in the order of their bytes."""
    fields: dict[str, Any] = {"__metadata__": dict(metadata)}
    at = 0
    for name, dtype, shape in tensors:
        stop = at + _ITEM_BYTES[dtype] * math.prod(shape)
        fields[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, stop]}
        at = stop
    text = json.dumps(fields, separators=(",", ":"), ensure_ascii=True).encode("ascii")
    filled = -(-(LENGTH_BYTES + len(text)) // ALIGNMENT) * ALIGNMENT - LENGTH_BYTES
    return _LENGTH.pack(filled) + text.ljust(filled)


def header_length(first: bytes, file_bytes: int) -> int:
    """Bytes of the header, from the first 8 of a file of so many. Raises ChunkRefused."""
    if len(first) < LENGTH_BYTES:
        raise ChunkRefused(Refusal.SHORT, f"a file of {len(first)} bytes has no header")
    (length,) = _LENGTH.unpack(first)
    if length > MAX_HEADER_BYTES or (LENGTH_BYTES + length) % ALIGNMENT:
        raise ChunkRefused(Refusal.MALFORMED, f"a header of {length} bytes: not a kvchunk file")
    if LENGTH_BYTES + length > file_bytes:
        raise ChunkRefused(Refusal.SHORT, f"a file of {file_bytes} bytes cannot have a header of {length}")
    return int(length)


def unpack_header(text: bytes, data_bytes: int) -> Header:
    """Read a header, followed by so many bytes of data. Raises ChunkRefused: MALFORMED or SHORT."""
    if not text.startswith(b"{"):
        _malformed("it does not begin with an object")
    try:
        fields = json.loads(text.decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ChunkRefused(Refusal.MALFORMED, f"the header is not valid JSON: {error}") from error
    if not isinstance(fields, dict):
        _malformed("it is not an object")
    metadata = fields.pop("__metadata__", None)
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        _malformed("__metadata__ is not an object of strings")
    entries = sorted(((name, _entry(name, value)) for name, value in fields.items()), key=_order)
    at = 0
    for name, entry in entries:
        if entry.start != at:
            _malformed(f"`{name}` begins at {entry.start}, and the tensor before it ends at {at}")
        at = entry.stop
    if at > data_bytes:
        raise ChunkRefused(Refusal.SHORT, f"{data_bytes} bytes of data, {at} belong there")
    if at < data_bytes:
        _malformed(f"{data_bytes} bytes of data, only {at} belong to a tensor")
    return Header(metadata, dict(entries))


def _entry(name: str, value: Any) -> Entry:
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
        _malformed(f"`{name}` is not described by dtype, shape and data_offsets")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _ITEM_BYTES:
        _malformed(f"`{name}` has numbers of a kind that no kvchunk file has")
    if not _sizes(shape) or not _sizes(offsets) or len(offsets) != 2:
        _malformed(f"`{name}` has a shape or offsets that are no sizes")
    start, stop = offsets
    if stop - start != _ITEM_BYTES[dtype] * math.prod(shape):
        _malformed(f"`{name}` has {stop - start} bytes, which its shape contradicts")
    return Entry(dtype, tuple(shape), start, stop)


def _sizes(value: Any) -> bool:
    """Whether it is a short list of numbers from 0 on, none of them beyond what a file can have."""
    return (
        isinstance(value, list) and len(value) <= 4 and all(type(each) is int and 0 <= each < 2**63 for each in value)
    )


def _order(item: tuple[str, Entry]) -> tuple[int, int]:
    return item[1].start, item[1].stop


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = dict(pairs)
    if len(names) != len(pairs):
        _malformed("a name is there twice")
    return names


def _no_constant(text: str) -> NoReturn:
    _malformed(f"{text} is not a number")


def _malformed(why: str) -> NoReturn:
    raise ChunkRefused(Refusal.MALFORMED, f"the header cannot be used: {why}")
