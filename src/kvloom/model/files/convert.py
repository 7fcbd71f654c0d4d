"""Make a manifest and a tokenizer from a model's own files. May be slow: it happens once per model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from kvloom.errors import ModelFileError, UnsupportedModel
from kvloom.model.family import Family
from kvloom.model.files.gguf_file import GgufHead
from kvloom.model.files.gguf_split import read_gguf_parts
from kvloom.model.files.gguf_tokenizer import gguf_text_rules, gguf_tokenizer_json
from kvloom.model.files.hf_tokenizer import convert_hf_tokenizer
from kvloom.model.files.json_file import read_json
from kvloom.model.files.manifest import TOKENIZER_FILE, Manifest, TensorEntry, WeightFile, write_manifest
from kvloom.model.files.safetensors_file import SafeTensor, read_safetensors
from kvloom.model.files.tensor_check import check_tensors
from kvloom.model.files.text_settings import check_gguf_text, check_hf_text
from kvloom.model.keys import Keys
from kvloom.model.names import gguf_name, hf_ignored, hf_name
from kvloom.model.reading import failures_name, open_regular
from kvloom.model.registry import family_of_gguf, family_of_hf
from kvloom.model.shapes import checked
from kvloom.model.spec import DivisorScaling, ModelSpec


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a model came from: its name, a readable source, and the stamp of a registered path."""

    name: str
    source: str
    stamp: str | None = None


def convert(model: Path, target: Path, origin: Origin) -> Manifest:
    """Write ``manifest.json`` and ``tokenizer.json`` for a .gguf file or a safetensors directory into ``target``.

    Weights inside ``target`` are named relative to it, others by absolute path. Raises ModelFileError and
    UnsupportedModel.
    """
    with failures_name(model, writes=target):
        if model.is_dir():
            return _convert_safetensors(model, target, origin)
        return _convert_gguf(model, target, origin)


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _convert_gguf(path: Path, target: Path, origin: Origin) -> Manifest:
    heads = read_gguf_parts(path)
    metadata = heads[0].metadata
    architecture = Keys(metadata, path.name).text("general.architecture")
    family = family_of_gguf(architecture, path.name)
    table = _gguf_table(family, heads)
    vocab_size = table["embed"].shape[0] if "embed" in table else 0
    spec = family.gguf_spec(Keys(metadata, path.name, f"{architecture}."), vocab_size)
    if "rope_divisors" in table:
        spec = _with_divisors(spec, heads, table.pop("rope_divisors"))
    check_tensors(path.name, family, spec, table)
    check_gguf_text(metadata, path.name)
    (target / TOKENIZER_FILE).write_text(gguf_tokenizer_json(metadata, path.name), encoding="utf-8")
    manifest = Manifest(
        name=origin.name,
        source=origin.source,
        directory=target,
        files=tuple(_weight_file(head.path, target) for head in heads),
        weights_id=_id_of_parts([sha256_file(head.path) for head in heads]),
        spec=spec,
        tensors=table,
        text=gguf_text_rules(metadata, path.name),
        stamp=origin.stamp,
    )
    write_manifest(manifest)
    return manifest


def _gguf_table(family: Family, heads: Iterable[GgufHead]) -> dict[str, TensorEntry]:
    table: dict[str, TensorEntry] = {}
    for number, head in enumerate(heads):
        for tensor in head.tensors:
            entry = TensorEntry(number, tensor.kind, tensor.shape, tensor.offset, tensor.nbytes)
            _enter(table, gguf_name(tensor.name), entry, tensor.name, head.path, family)
    return table


def _enter(
    table: dict[str, TensorEntry], name: str | None, entry: TensorEntry, stored: str, path: Path, family: Family
) -> None:
    """Add the tensor that ``path`` calls ``stored``."""
    if name is None:
        raise UnsupportedModel(f"`{path}` has tensor `{stored}`, which family {family.name} does not know")
    if name in table:
        raise ModelFileError(f"`{path}` has tensor `{stored}`, and another of that meaning ({name})")
    table[name] = entry


def _with_divisors(spec: ModelSpec, heads: Sequence[GgufHead], entry: TensorEntry) -> ModelSpec:
    path = heads[entry.file].path
    if entry.kind != "F32" or entry.shape != (spec.rope.dim // 2,):
        raise ModelFileError(
            f"`{path.name}`: rope_freqs.weight is {entry.kind} {entry.shape}, not F32 ({spec.rope.dim // 2},)"
        )
    if spec.rope.scaling is not None:
        raise UnsupportedModel(f"`{path.name}` scales RoPE twice: in its settings and by rope_freqs.weight")
    with open_regular(path) as file:
        file.seek(entry.offset)
        divisors = np.frombuffer(file.read(entry.nbytes), dtype="<f4")
    scaling = DivisorScaling(tuple(divisors.tolist()))
    return checked(replace(spec, rope=replace(spec.rope, scaling=scaling)), path.name)


def _convert_safetensors(directory: Path, target: Path, origin: Origin) -> Manifest:
    config = read_json(directory / "config.json")
    family = family_of_hf(Keys(config, str(directory / "config.json")).text("model_type"), str(directory))
    spec = family.hf_spec(Keys(config, f"{directory.name}/config.json"))
    found = read_safetensors(directory)
    paths = sorted({tensor.path for tensor in found})
    table = _hf_table(family, found, {path: index for index, path in enumerate(paths)})
    if Keys(config, str(directory / "config.json")).flag("tie_word_embeddings", family.tied_by_default):
        table.pop("head", None)
    elif "head" not in table:
        raise ModelFileError(
            f"`{directory}` has no tensor `lm_head.weight`, and config.json does not tie it to the embedding"
        )
    check_tensors(str(directory), family, spec, table)
    check_hf_text(directory, config)
    manifest = Manifest(
        name=origin.name,
        source=origin.source,
        directory=target,
        files=tuple(_weight_file(path, target) for path in paths),
        weights_id=_combined_id(spec, paths),
        spec=spec,
        tensors=table,
        text=convert_hf_tokenizer(directory, target, config),
        stamp=origin.stamp,
    )
    write_manifest(manifest)
    return manifest


def _hf_table(family: Family, found: Iterable[SafeTensor], numbers: Mapping[Path, int]) -> dict[str, TensorEntry]:
    table: dict[str, TensorEntry] = {}
    for tensor in found:
        if not hf_ignored(tensor.name):
            name = hf_name(tensor.name, dict(family.hf_tensor_names))
            entry = TensorEntry(numbers[tensor.path], tensor.kind, tensor.shape, tensor.offset, tensor.nbytes)
            _enter(table, name, entry, tensor.name, tensor.path, family)
    return table


def _weight_file(path: Path, target: Path) -> WeightFile:
    stat = path.stat()
    if path.resolve().is_relative_to(target.resolve()):
        return WeightFile(str(path.resolve().relative_to(target.resolve())), stat.st_size)
    return WeightFile(str(path.resolve()), stat.st_size)


def _id_of_parts(digests: Sequence[str]) -> str:
    """One file's own digest; of several, the digest of all in order."""
    return digests[0] if len(digests) == 1 else hashlib.sha256(" ".join(digests).encode()).hexdigest()


def _combined_id(spec: ModelSpec, paths: list[Path]) -> str:
    """safetensors models keep their settings outside the weights: the id must cover both."""
    parts: dict[str, Any] = {"spec": asdict(spec), "files": [sha256_file(path) for path in paths]}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
