"""Read the heads of safetensors files, sharded or not: a length, a JSON table, then the raw tensors."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kvloom.errors import ModelFileError, UnsupportedModel

_KINDS = {"F32": ("F32", 4), "F16": ("F16", 2), "BF16": ("BF16", 2)}
_INDEX, _SINGLE = "model.safetensors.index.json", "model.safetensors"


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

    Raises ModelFileError when a shard or a tensor is missing, cut short or contradicts its header.
    """
    index = directory / _INDEX
    if not index.exists():
        if not (directory / _SINGLE).exists():
            raise ModelFileError(f"`{directory}` holds neither {_SINGLE} nor {_INDEX}")
        return tuple(_read_shard(directory / _SINGLE))
    weight_map: dict[str, str] = read_json(index).get("weight_map", {})
    shards = sorted(set(weight_map.values()))
    missing = [shard for shard in shards if not (directory / shard).exists()]
    if missing:
        raise ModelFileError(f"`{directory}` lacks {len(missing)} of {len(shards)} shards: {', '.join(missing)}")
    found = {tensor.name: tensor for shard in shards for tensor in _read_shard(directory / shard)}
    lost = sorted(set(weight_map) - set(found))
    if lost:
        raise ModelFileError(f"{index} names {len(lost)} tensors that no shard holds, the first is `{lost[0]}`")
    return tuple(found.values())


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a model directory. Raises ModelFileError."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ModelFileError(f"cannot read `{path}`: {error}") from error
    if not isinstance(value, dict):
        raise ModelFileError(f"`{path}` should hold a JSON object, not {type(value).__name__}")
    return value


def _read_shard(path: Path) -> list[SafeTensor]:
    file_bytes = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        head_bytes = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
        if not 2 <= head_bytes <= file_bytes - 8:
            raise ModelFileError(
                f"`{path}` is no safetensors file or is cut short: {head_bytes} header bytes, {file_bytes} in all"
            )
        raw = file.read(head_bytes)
    try:
        table: dict[str, dict[str, Any]] = json.loads(raw)
        entries = [(name, *_describe(entry)) for name, entry in table.items() if name != "__metadata__"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelFileError(f"`{path}` has a corrupt header: {error!r}") from error
    start = 8 + head_bytes
    return [_checked(path, file_bytes, start, *entry) for entry in entries]


def _describe(entry: dict[str, Any]) -> tuple[str, tuple[int, ...], int, int]:
    begin, end = entry["data_offsets"]
    return str(entry["dtype"]), tuple(int(size) for size in entry["shape"]), int(begin), int(end)


def _checked(
    path: Path,
    file_bytes: int,
    start: int,
    name: str,
    dtype: str,
    shape: tuple[int, ...],
    begin: int,
    end: int,
) -> SafeTensor:
    if dtype not in _KINDS:
        raise UnsupportedModel(
            f"tensor `{name}` of `{path}` has type {dtype}, which kvloom does not run",
            hint=f"one of {', '.join(_KINDS)}",
        )
    kind, value_bytes = _KINDS[dtype]
    nbytes = value_bytes
    for size in shape:
        nbytes *= size
    if begin < 0 or min(shape, default=1) < 1 or end - begin != nbytes:
        raise ModelFileError(
            f"`{path}` is corrupt: tensor `{name}` of shape {shape} takes {nbytes} bytes, not {end - begin}"
        )
    if start + end > file_bytes:
        raise ModelFileError(
            f"`{path}` is cut short: tensor `{name}` ends at byte {start + end}, the file has {file_bytes}",
            hint="fetch the file again",
        )
    return SafeTensor(name, path, kind, shape, start + begin, nbytes)
