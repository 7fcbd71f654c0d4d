"""Read the head of a GGUF file: metadata and the tensor table. The weights themselves are not touched.

A file is: magic, version, counts | metadata (key, typed value)* | (name, shape, type, offset)* | padding | data.
Implemented here for fast start-up: the reference reader takes many seconds for a vocabulary of 262k strings.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kvloom.errors import ModelFileError, UnsupportedModel
from kvloom.model.files.kinds import GGML_NAMES, kind_of
from kvloom.model.keys import Keys
from kvloom.model.reading import open_regular

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_U32, _STRING, _ARRAY = 4, 8, 9
_MAX_DIMS = 4
_MOST_NAME_BYTES, _MOST_KEY_BYTES = 64, 65535
_LEAST_INFO_BYTES = 8 + 4 + 8 + 4 + 8
"""Of a tensor: the length of its name, the number of dimensions, one dimension, type, offset."""
_LEAST_KEY_BYTES = 8 + 4 + 1
_ALIGNMENT = "general.alignment"


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """One tensor: ``shape`` is row-major (rows first), ``offset`` counts bytes from the start of the file."""

    name: str
    kind: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class GgufHead:
    """The part before the weights. Arrays of numbers are numpy arrays, arrays of strings are lists."""

    path: Path
    file_bytes: int
    metadata: dict[str, Any]
    tensors: tuple[GgufTensor, ...]


def read_gguf(path: Path) -> GgufHead:
    """Read and check a GGUF file's head.

    Checks everything that llama.cpp checks. Raises ModelFileError for a file that is not a GGUF, is truncated or
    contradicts itself, UnsupportedModel for tensor types and byte orders that kvloom does not support.
    """
    with open_regular(path) as file:
        try:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:  # mmap refuses an empty file with ValueError
            raise ModelFileError(f"cannot read `{path}`: {error}") from error
    with data:
        return _Cursor(path, data).head()


class _Cursor:
    """Walks the bytes, never past the end."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path, self.data, self.at = path, data, 0

    def head(self) -> GgufHead:
        magic = self.take(4)
        if magic != b"GGUF":
            raise ModelFileError(f"`{self.path}` is not a GGUF file: it starts with {magic!r}, not b'GGUF'")
        version = self.scalar("I")
        if version not in (2, 3):
            raise UnsupportedModel(f"`{self.path}` has GGUF version {version}; kvloom reads 2 and 3 (little endian)")
        num_tensors, num_keys = self.scalar("Q"), self.scalar("Q")
        if num_tensors * _LEAST_INFO_BYTES + num_keys * _LEAST_KEY_BYTES > len(self.data):
            raise self.broken(f"it claims {num_tensors} tensors and {num_keys} keys")
        metadata: dict[str, Any] = {}
        for _ in range(num_keys):
            key = self.string(_MOST_KEY_BYTES)
            if key in metadata:
                raise self.broken(f"key `{key}` occurs twice")
            metadata[key] = self.setting(key)
        infos = [self.tensor_info() for _ in range(num_tensors)]
        return GgufHead(self.path, len(self.data), metadata, self.tensors(infos, self.alignment(metadata)))

    def alignment(self, metadata: dict[str, Any]) -> int:
        align = Keys(metadata, str(self.path)).size(_ALIGNMENT, 32)
        if align % 8 or align & (align - 1):
            raise self.broken(f"`{_ALIGNMENT}` is {align}, not 8 times a power of two")
        return align

    def tensors(self, infos: list[tuple[str, tuple[int, ...], int, int]], align: int) -> tuple[GgufTensor, ...]:
        """Check that tensors are in table order, each at the next aligned byte, without gaps or overlaps."""
        start = -(-self.at // align) * align
        found: dict[str, GgufTensor] = {}
        expected = 0
        for name, shape, type_id, offset in infos:
            kind = kind_of(GGML_NAMES.get(type_id, f"number {type_id}"), name, self.path)
            if name in found:
                raise self.broken(f"tensor `{name}` occurs twice")
            if shape[-1] % kind.block_values:
                raise self.broken(
                    f"tensor `{name}` has rows of {shape[-1]} values, no whole number of {kind.name} blocks "
                    f"({kind.block_values} values)"
                )
            if offset != expected:
                raise self.broken(f"tensor `{name}` lies at byte {offset} of the weights, its place is {expected}")
            nbytes = kind.tensor_bytes(shape)
            if start + offset + nbytes > len(self.data):
                raise ModelFileError(
                    f"`{self.path}` is truncated: tensor `{name}` ends at byte {start + offset + nbytes}, "
                    f"the file has {len(self.data)}",
                    hint="fetch the file again",
                )
            found[name] = GgufTensor(name, kind.name, shape, start + offset, nbytes)
            expected = -(-(offset + nbytes) // align) * align
        return tuple(found.values())

    def tensor_info(self) -> tuple[str, tuple[int, ...], int, int]:
        name, dims = self.string(_MOST_NAME_BYTES), self.scalar("I")
        if not 1 <= dims <= _MAX_DIMS:
            raise self.broken(f"tensor `{name}` has {dims} dimensions")
        shape = tuple(self.scalar("Q") for _ in range(dims))[::-1]
        if 0 in shape:
            raise self.broken(f"tensor `{name}` has shape {shape}")
        return name, shape, self.scalar("I"), self.scalar("Q")

    def setting(self, key: str) -> Any:
        """The typed value of a key."""
        type_id = self.scalar("I")
        if key == _ALIGNMENT and type_id != _U32:
            raise self.broken(f"`{key}` has type number {type_id}, not {_U32} (uint32)")
        if type_id == _STRING:
            return self.string()
        if type_id == _ARRAY:
            return self.array()
        if type_id not in _SCALARS:
            raise self.broken(f"the value of `{key}` has type number {type_id}")
        return self.scalar(_SCALARS[type_id])

    def array(self) -> Any:
        type_id, count = self.scalar("I"), self.scalar("Q")
        if count * (8 if type_id == _STRING else 1) > len(self.data) - self.at:
            raise self.broken(f"an array claims {count} entries")
        if type_id in _SCALARS:
            dtype = np.dtype("<" + _SCALARS[type_id])
            return np.frombuffer(self.take(count * dtype.itemsize), dtype=dtype)
        if type_id != _STRING:
            raise self.broken(f"an array holds entries of type number {type_id}")
        return [self.string() for _ in range(count)]

    def string(self, most_bytes: int | None = None) -> str:
        length = self.scalar("Q")
        if most_bytes is not None and length > most_bytes:
            raise self.broken(f"a name claims {length} bytes, more than {most_bytes}")
        raw = self.take(length)
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.broken(f"a text is not UTF-8: {raw[:20]!r}") from error

    def scalar(self, code: str) -> Any:
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))[0]

    def take(self, count: int) -> bytes:
        if self.at + count > len(self.data):
            raise ModelFileError(
                f"`{self.path}` is truncated: its head needs {count} bytes at byte {self.at}, "
                f"the file has {len(self.data)}",
                hint="fetch the file again",
            )
        self.at += count
        return self.data[self.at - count : self.at]

    def broken(self, what: str) -> ModelFileError:
        return ModelFileError(f"`{self.path}` is corrupt near byte {self.at}: {what}")
