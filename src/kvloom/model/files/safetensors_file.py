"""Read the headers of safetensors files, sharded or not: a length, a JSON table, then the raw tensors.

Checks everything that the format's own library checks, without mapping the weights as it would.
"""

from __future__ import annotations

import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kvloom.errors import ModelFileError, UnsupportedModel
from kvloom.model.files.json_file import parse_object, read_json
from kvloom.model.keys import Keys
from kvloom.model.reading import is_there, open_regular, plain_name

_KINDS = {"F32": ("F32", 4), "F16": ("F16", 2), "BF16": ("BF16", 2)}
_INDEX, _SINGLE = "model.safetensors.index.json", "model.safetensors"
_MOST_HEAD_BYTES = 100_000_000
_MOST_DIMS = 8


@dataclass(frozen=True, slots=True)
class SafeTensor:
    """One tensor: ``offset`` counts bytes from the start of ``path``."""

    name: str
    path: Path
    kind: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


def read_safetensors(directory: Path) -> tuple[SafeTensor, ...]:
    """Read the tensor tables of ``model.safetensors`` or of all shards that its index names.

    Raises ModelFileError when a shard or a tensor is missing, duplicate, truncated or contradicts its header.
    """
    index = directory / _INDEX
    if not is_there(index):
        if not is_there(directory / _SINGLE):
            raise ModelFileError(f"`{directory}` contains neither {_SINGLE} nor {_INDEX}")
        return tuple(_read_shard(directory / _SINGLE))
    weight_map = Keys(read_json(index), str(index)).section("weight_map")
    if not weight_map:
        raise ModelFileError(f"`{index}` has no `weight_map`")
    shards = sorted({plain_name(shard, index) for shard in weight_map.values.values()})
    missing = [shard for shard in shards if not is_there(directory / shard)]
    if missing:
        raise ModelFileError(f"`{directory}` is missing {len(missing)} of {len(shards)} shards: {', '.join(missing)}")
    found: dict[str, SafeTensor] = {}
    for shard in shards:
        for tensor in _read_shard(directory / shard):
            if tensor.name in found:
                raise ModelFileError(f"`{tensor.path}` and `{found[tensor.name].path}` both hold `{tensor.name}`")
            found[tensor.name] = tensor
    lost = sorted(weight_map.values.keys() - found.keys())
    if lost:
        raise ModelFileError(f"{index} names {len(lost)} tensors that no shard holds, the first is `{lost[0]}`")
    return tuple(found.values())


def _read_shard(path: Path) -> list[SafeTensor]:
    with open_regular(path) as file:
        file_bytes = os.fstat(file.fileno()).st_size
        head = file.read(8)
        head_bytes = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
        if not 2 <= head_bytes <= file_bytes - 8:
            raise ModelFileError(
                f"`{path}` is no safetensors file or is truncated: {head_bytes} header bytes, {file_bytes} in all"
            )
        if head_bytes > _MOST_HEAD_BYTES:
            raise ModelFileError(f"`{path}` is corrupt: a header of {head_bytes} bytes, more than {_MOST_HEAD_BYTES}")
        raw = file.read(head_bytes)
    if not raw.startswith(b"{"):
        raise ModelFileError(f"`{path}` has a corrupt header: it starts with {raw[:8]!r}, not a JSON object")
    table = parse_object(raw, path)
    _check_remarks(table.pop("__metadata__", None), path)
    found = [_tensor(Keys({name: entry}, str(path)), path, 8 + head_bytes) for name, entry in table.items()]
    _check_cover(path, found, 8 + head_bytes, file_bytes)
    return found


def _check_remarks(value: Any, path: Path) -> None:
    if value is not None and not (isinstance(value, dict) and all(isinstance(text, str) for text in value.values())):
        raise ModelFileError(f"`{path}` has a corrupt header: `__metadata__` should be texts by name")


def _tensor(table: Keys, path: Path, start: int) -> SafeTensor:
    """Of a table with one entry: dtype, shape and offsets, which must agree."""
    (name,) = table.values
    entry = table.section(name)
    if entry is None:
        raise table.odd(name, "an object")
    dtype, shape, offsets = entry.text("dtype"), _sizes(entry, "shape"), _sizes(entry, "data_offsets")
    if len(offsets) != 2:
        raise entry.odd("data_offsets", "two numbers")
    if dtype not in _KINDS:
        raise UnsupportedModel(
            f"tensor `{name}` of `{path}` has type {dtype}, which kvloom does not support",
            hint=f"one of {', '.join(_KINDS)}",
        )
    kind, value_bytes = _KINDS[dtype]
    nbytes = value_bytes * math.prod(shape)
    begin, end = offsets
    if nbytes == 0 or end - begin != nbytes:
        raise ModelFileError(
            f"`{path}` is corrupt: tensor `{name}` of shape {shape} takes {nbytes} bytes, not {end - begin}"
        )
    return SafeTensor(name, path, kind, shape, start + begin, nbytes)


def _sizes(entry: Keys, key: str) -> tuple[int, ...]:
    """A list of whole numbers from 0."""
    value = entry.need(key)
    if (
        not isinstance(value, list)
        or len(value) > _MOST_DIMS
        or any(type(size) is not int or not 0 <= size < 1 << 63 for size in value)
    ):
        raise entry.odd(key, "a list of whole numbers from 0")
    return tuple(value)


def _check_cover(path: Path, found: list[SafeTensor], start: int, file_bytes: int) -> None:
    """Check that tensors follow each other without gaps or overlaps, from the header to the end of the file."""
    at = start
    for tensor in sorted(found, key=lambda tensor: tensor.offset):
        if tensor.offset != at:
            what = "overlaps another" if tensor.offset < at else "follows a hole"
            raise ModelFileError(f"`{path}` is corrupt: tensor `{tensor.name}` at byte {tensor.offset} {what}")
        at += tensor.nbytes
        if at > file_bytes:
            raise ModelFileError(
                f"`{path}` is truncated: tensor `{tensor.name}` ends at byte {at}, the file has {file_bytes}",
                hint="fetch the file again",
            )
    if at != file_bytes:
        raise ModelFileError(f"`{path}` is corrupt: its tensors end at byte {at}, the file has {file_bytes}")
