"""Read the head of a GGUF file: metadata and the tensor table. The weights themselves are not touched.

A file is: magic, version, counts | metadata (key, typed value)* | (name, shape, type, offset)* | padding | data.
Written here because start-up matters: a vocabulary of 262k strings takes the reference reader many seconds.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kvloom.errors import ModelFileError, UnsupportedModel
from kvloom.model.keys import Keys
from kvloom.model.kinds import GGML_NAMES, kind_of

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_MAX_DIMS = 4


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
    """What stands before the weights. Arrays of numbers are numpy arrays, arrays of strings are lists."""

    path: Path
    file_bytes: int
    metadata: dict[str, Any]
    tensors: tuple[GgufTensor, ...]


def read_gguf(path: Path) -> GgufHead:
    """Read and check a GGUF file's head.

    Raises ModelFileError for a file that is no GGUF, is cut short or contradicts itself, UnsupportedModel for tensor
    types and byte orders that kvloom does not run.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Cursor(path, data).head()
    except (OSError, ValueError) as error:  # mmap refuses an empty file with ValueError
        raise ModelFileError(f"cannot read `{path}`: {error}") from error


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
        if max(num_tensors, num_keys) > len(self.data):
            raise self.broken(f"it claims {num_tensors} tensors and {num_keys} keys")
        metadata = {self.string(): self.value(self.scalar("I")) for _ in range(num_keys)}
        infos = [self.tensor_info() for _ in range(num_tensors)]
        return GgufHead(self.path, len(self.data), metadata, self.tensors(infos, metadata))

    def tensors(
        self, infos: list[tuple[str, tuple[int, ...], int, int]], metadata: dict[str, Any]
    ) -> tuple[GgufTensor, ...]:
        align = Keys(metadata, str(self.path)).size("general.alignment", 32)
        start = -(-self.at // align) * align
        found = []
        for name, shape, type_id, offset in infos:
            kind = kind_of(GGML_NAMES.get(type_id, f"number {type_id}"), name)
            nbytes = kind.tensor_bytes(shape)
            if start + offset + nbytes > len(self.data):
                raise ModelFileError(
                    f"`{self.path}` is cut short: tensor `{name}` ends at byte {start + offset + nbytes}, "
                    f"the file has {len(self.data)}",
                    hint="fetch the file again",
                )
            found.append(GgufTensor(name, kind.name, shape, start + offset, nbytes))
        return tuple(found)

    def tensor_info(self) -> tuple[str, tuple[int, ...], int, int]:
        name, dims = self.string(), self.scalar("I")
        if not 1 <= dims <= _MAX_DIMS:
            raise self.broken(f"tensor `{name}` has {dims} dimensions")
        shape = tuple(self.scalar("Q") for _ in range(dims))[::-1]
        if 0 in shape:
            raise self.broken(f"tensor `{name}` has shape {shape}")
        return name, shape, self.scalar("I"), self.scalar("Q")

    def value(self, type_id: int) -> Any:
        if type_id == _STRING:
            return self.string()
        if type_id == _ARRAY:
            return self.array()
        if type_id not in _SCALARS:
            raise self.broken(f"a metadata value has type number {type_id}")
        return self.scalar(_SCALARS[type_id])

    def array(self) -> Any:
        type_id, count = self.scalar("I"), self.scalar("Q")
        if count > len(self.data):
            raise self.broken(f"an array claims {count} entries")
        if type_id in _SCALARS:
            dtype = np.dtype("<" + _SCALARS[type_id])
            return np.frombuffer(self.take(count * dtype.itemsize), dtype=dtype)
        if type_id != _STRING:
            raise self.broken(f"an array holds entries of type number {type_id}")
        return [self.string() for _ in range(count)]

    def string(self) -> str:
        raw = self.take(self.scalar("Q"))
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.broken(f"a text is not UTF-8: {raw[:20]!r}") from error

    def scalar(self, code: str) -> Any:
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))[0]

    def take(self, count: int) -> bytes:
        if self.at + count > len(self.data):
            raise ModelFileError(
                f"`{self.path}` is cut short: its head needs {count} bytes at byte {self.at}, "
                f"the file has {len(self.data)}",
                hint="fetch the file again",
            )
        self.at += count
        return self.data[self.at - count : self.at]

    def broken(self, what: str) -> ModelFileError:
        return ModelFileError(f"`{self.path}` is corrupt near byte {self.at}: {what}")
