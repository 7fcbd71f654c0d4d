"""Make a manifest and a tokenizer out of a model's own files. Slow is fine here: it happens once per model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from kvloom.errors import ModelFileError, UnsupportedModel
from kvloom.model.family import Family
from kvloom.model.gguf_file import GgufHead, read_gguf
from kvloom.model.gguf_tokenizer import gguf_text_rules, gguf_tokenizer_json
from kvloom.model.hf_tokenizer import convert_hf_tokenizer
from kvloom.model.keys import Keys
from kvloom.model.manifest import TOKENIZER_FILE, Manifest, TensorEntry, WeightFile, write_manifest
from kvloom.model.names import gguf_name, hf_ignored, hf_name
from kvloom.model.registry import family_of_gguf, family_of_hf
from kvloom.model.safetensors_file import SafeTensor, read_json, read_safetensors
from kvloom.model.shapes import layer_shape, top_shape
from kvloom.model.spec import DivisorScaling, ModelSpec


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a model came from: its name, a word on its source for people, and the stamp of a registered path."""

    name: str
    source: str
    stamp: str | None = None


def convert(model: Path, target: Path, origin: Origin) -> Manifest:
    """Write ``manifest.json`` and ``tokenizer.json`` for a .gguf file or a safetensors directory into ``target``.

    Weights inside ``target`` are named relative to it, others by absolute path. Raises ModelFileError and
    UnsupportedModel.
    """
    if model.is_dir():
        return _convert_safetensors(model, target, origin)
    return _convert_gguf(model, target, origin)


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _convert_gguf(path: Path, target: Path, origin: Origin) -> Manifest:
    head = read_gguf(path)
    metadata = head.metadata
    architecture = str(metadata.get("general.architecture", ""))
    family = family_of_gguf(architecture, path.name)
    table: dict[str, TensorEntry] = {}
    for tensor in head.tensors:
        name = gguf_name(tensor.name)
        if name is None:
            raise UnsupportedModel(
                f"`{path.name}` has tensor `{tensor.name}`, which family {family.name} does not know"
            )
        table[name] = TensorEntry(0, tensor.kind, tensor.shape, tensor.offset, tensor.nbytes)
    vocab_size = table["embed"].shape[0] if "embed" in table else 0
    spec = family.gguf_spec(Keys(metadata, path.name, f"{architecture}."), vocab_size)
    if "rope_divisors" in table:
        spec = _with_divisors(spec, head, table.pop("rope_divisors"))
    _check_tensors(path.name, family, spec, table)
    (target / TOKENIZER_FILE).write_text(gguf_tokenizer_json(metadata, path.name), encoding="utf-8")
    manifest = Manifest(
        name=origin.name,
        source=origin.source,
        directory=target,
        files=(_weight_file(path, target),),
        weights_id=sha256_file(path),
        spec=spec,
        tensors=table,
        text=gguf_text_rules(metadata, path.name),
        stamp=origin.stamp,
    )
    write_manifest(manifest)
    return manifest


def _with_divisors(spec: ModelSpec, head: GgufHead, entry: TensorEntry) -> ModelSpec:
    if entry.kind != "F32" or entry.shape != (spec.rope.dim // 2,):
        raise ModelFileError(
            f"`{head.path.name}`: rope_freqs.weight is {entry.kind} {entry.shape}, not F32 ({spec.rope.dim // 2},)"
        )
    with head.path.open("rb") as file:
        file.seek(entry.offset)
        divisors = np.frombuffer(file.read(entry.nbytes), dtype="<f4")
    return replace(spec, rope=replace(spec.rope, scaling=DivisorScaling(tuple(divisors.tolist()))))


def _convert_safetensors(directory: Path, target: Path, origin: Origin) -> Manifest:
    config = read_json(directory / "config.json")
    family = family_of_hf(str(config.get("model_type", "")), str(directory))
    spec = family.hf_spec(Keys(config, f"{directory.name}/config.json"))
    found = read_safetensors(directory)
    paths = sorted({tensor.path for tensor in found})
    table = _hf_table(directory, family, found, {path: index for index, path in enumerate(paths)})
    text_config = config.get("text_config", config)
    if text_config.get("tie_word_embeddings", family.name == "gemma3"):
        table.pop("head", None)
    elif "head" not in table:
        raise ModelFileError(
            f"`{directory}` lacks tensor `lm_head.weight`, and config.json does not tie it to the embedding"
        )
    _check_tensors(str(directory), family, spec, table)
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


def _hf_table(
    directory: Path, family: Family, found: Iterable[SafeTensor], numbers: Mapping[Path, int]
) -> dict[str, TensorEntry]:
    table: dict[str, TensorEntry] = {}
    for tensor in found:
        if hf_ignored(tensor.name):
            continue
        name = hf_name(tensor.name, dict(family.hf_tensor_names))
        if name is None:
            raise UnsupportedModel(
                f"`{directory}` has tensor `{tensor.name}`, which family {family.name} does not know"
            )
        table[name] = TensorEntry(numbers[tensor.path], tensor.kind, tensor.shape, tensor.offset, tensor.nbytes)
    return table


def _check_tensors(origin: str, family: Family, spec: ModelSpec, table: dict[str, TensorEntry]) -> None:
    """Every tensor that the family needs, none that it does not know, each of the right shape."""
    shapes = {name: top_shape(spec, name) for name in ("embed", "norm")}
    shapes |= {
        f"layers.{i}.{name}": layer_shape(spec, name) for i in range(spec.num_layers) for name in family.required
    }
    missing = sorted(shapes.keys() - table.keys())
    if missing:
        some = ", ".join(missing[:3])
        raise ModelFileError(
            f"`{origin}` lacks {len(missing)} tensors of family {family.name}: {some}{' ...' * (len(missing) > 3)}"
        )
    shapes["head"] = top_shape(spec, "head")
    shapes |= {
        f"layers.{i}.{name}": layer_shape(spec, name) for i in range(spec.num_layers) for name in family.optional
    }
    for name, entry in table.items():
        if name not in shapes:
            raise UnsupportedModel(f"`{origin}` has tensor `{name}`, which family {family.name} does not use")
        if entry.shape != shapes[name]:
            raise ModelFileError(
                f"`{origin}`: tensor `{name}` has shape {entry.shape}, its settings ask for {shapes[name]}"
            )


def _weight_file(path: Path, target: Path) -> WeightFile:
    stat = path.stat()
    if path.resolve().is_relative_to(target.resolve()):
        return WeightFile(str(path.resolve().relative_to(target.resolve())), stat.st_size)
    return WeightFile(str(path.resolve()), stat.st_size)


def _combined_id(spec: ModelSpec, paths: list[Path]) -> str:
    """safetensors keep the settings outside the weights: an id must cover both."""
    parts: dict[str, Any] = {"spec": asdict(spec), "files": [sha256_file(path) for path in paths]}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
