"""The manifest: everything about a model that is slow to determine, determined once and stored beside it."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from kvloom.errors import ModelFileError
from kvloom.model.files.json_file import read_json
from kvloom.model.files.typed_json import typed
from kvloom.model.spec import ModelSpec
from kvloom.model.text.rules import TextRules

MANIFEST_VERSION = 2
"""Incremented whenever the conversion of a file changes: manifests of older versions are rebuilt."""
MANIFEST_FILE, TOKENIZER_FILE = "manifest.json", "tokenizer.json"


@dataclass(frozen=True, slots=True)
class WeightFile:
    """A file that holds weights: relative to the manifest's directory, or absolute."""

    path: str
    nbytes: int


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """Where a tensor lies. ``file`` counts in ``Manifest.files``; ``shape`` is row-major; ``kind`` a name in KINDS."""

    file: int
    kind: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """A model that is ready to load. ``tensors`` is keyed by canonical names, see ``model.names``.

    ``stamp`` changes when a registered path's files do; a pulled model's files never change.
    """

    name: str
    source: str
    directory: Path
    files: tuple[WeightFile, ...]
    weights_id: str
    spec: ModelSpec
    tensors: dict[str, TensorEntry]
    text: TextRules
    stamp: str | None = None

    @property
    def context_length(self) -> int:
        return self.spec.context_length

    @property
    def family(self) -> str:
        return self.spec.family

    @property
    def size_bytes(self) -> int:
        return sum(file.nbytes for file in self.files)

    def weight_path(self, index: int) -> Path:
        return self.directory / self.files[index].path

    @property
    def tokenizer_path(self) -> Path:
        return self.directory / TOKENIZER_FILE


def write_manifest(manifest: Manifest) -> None:
    """Write ``manifest.json`` into the manifest's directory."""
    value = dataclasses.asdict(manifest) | {"version": MANIFEST_VERSION}
    del value["directory"]
    fresh = manifest.directory / f"{MANIFEST_FILE}.new"
    fresh.write_text(json.dumps(value, ensure_ascii=False, indent=1), encoding="utf-8")
    fresh.replace(manifest.directory / MANIFEST_FILE)


def read_manifest(directory: Path) -> Manifest:
    """Read a manifest. Raises ModelFileError when it is missing, damaged or written by another version."""
    path = directory / MANIFEST_FILE
    value = read_json(path)
    if value.pop("version", None) != MANIFEST_VERSION:
        raise ModelFileError(f"`{path}` was written by another version of kvloom")
    try:
        return typed(Manifest, value | {"directory": directory})
    except ValueError as error:
        raise ModelFileError(f"cannot read `{path}`: {error}") from error
