"""From a manifest to a tokenizer and a model.

Weight files are mapped and packed tensor by tensor, and the pages of each are dropped once it is packed.
"""

from __future__ import annotations

import hashlib
import mmap
from dataclasses import dataclass, field

import numpy as np

from kvloom.arrays import Bytes, Floats
from kvloom.config import Activations
from kvloom.errors import ModelFileError, UnsupportedModel
from kvloom.model.base import Model
from kvloom.model.decoder import Decoder, kv_map_of
from kvloom.model.files.manifest import MANIFEST_FILE, Manifest, TensorEntry
from kvloom.model.files.tensor_check import check_manifest
from kvloom.model.fused import fuse
from kvloom.model.heap import give_back_free_memory
from kvloom.model.layers import Norm, Projection
from kvloom.model.ops import Precision
from kvloom.model.reading import failures_name, open_regular
from kvloom.model.registry import FAMILIES
from kvloom.model.rope import RopeTable
from kvloom.model.spec import ModelSpec
from kvloom.model.text.tokenizer import Tokenizer, load_backend
from kvloom.model.weight import Weight
from kvloom.model.weight_memory import WeightMemory

_HALF_SPLIT = ("q", "k", "q_bias", "k_bias")

_VECTOR_KINDS = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}

_HEAD_PRECISION: dict[Activations, Precision] = {"float32": "float32", "int8": "int16"}
"""The head is most sensitive to rounding: in 8 bits it alone would cause a third of the divergence."""


def load_tokenizer(manifest: Manifest) -> Tokenizer:
    """Read the tokenizer of a manifest. Raises ModelFileError when its file is missing or damaged."""
    with failures_name(manifest.tokenizer_path):
        backend = load_backend(manifest.tokenizer_path)
        give_back_free_memory()
        return Tokenizer(backend, manifest.text, manifest.name, manifest.spec.vocab_size)


def load_model(manifest: Manifest, threads: int, activations: Activations) -> Model:
    """Build the model a manifest describes. Raises ModelFileError when a weight file changed or is gone.

    At no time is there a second full copy of the weights: each tensor is packed straight from the mapped file.
    """
    with failures_name(manifest.directory / MANIFEST_FILE):
        return _load(manifest, threads, activations)


def _load(manifest: Manifest, threads: int, activations: Activations) -> Model:
    check_manifest(manifest)
    spec = manifest.spec
    tensors = FileTensors(manifest, threads, activations)
    full = RopeTable(spec.rope)
    local = full if spec.rope_local is None else RopeTable(spec.rope_local)
    family = FAMILIES[manifest.family]
    embed, norm = tensors.weight("embed"), tensors.norm("norm")
    head_weight = tensors.weight("head") if "head" in tensors else embed
    head = Projection(head_weight, None, threads, _HEAD_PRECISION[activations])
    ropes = (full,) if local is full else (full, local)
    blocks = tuple(
        family.block(spec, tensors, layer, full if window is None else local)
        for layer, window in enumerate(spec.windows)
    )
    return Decoder(
        spec=spec,
        weights_id=weights_id_of(manifest, activations),
        kv_map=kv_map_of(spec),
        embedding=embed,
        blocks=blocks,
        ropes=ropes,
        norm=norm,
        head=head,
        threads=threads,
        fused=fuse(spec, embed, head, blocks, norm, ropes, threads),
    )


def weights_id_of(manifest: Manifest, activations: Activations) -> str:
    """KV computed at another precision has another identity."""
    if activations == "float32":
        return manifest.weights_id
    return hashlib.sha256(f"{manifest.weights_id} {activations} activations".encode()).hexdigest()


@dataclass(slots=True)
class FileTensors:
    """Reads tensors from mapped files; implements ``layers.Tensors``."""

    manifest: Manifest
    threads: int
    activations: Activations
    _memory: WeightMemory = field(default_factory=WeightMemory)
    _maps: dict[int, mmap.mmap] = field(default_factory=dict)

    def __contains__(self, name: object) -> bool:
        return name in self.manifest.tensors

    def projection(self, names: tuple[str, ...], bias_names: tuple[str, ...] = ()) -> Projection:
        bias = np.concatenate([self.vector(name) for name in bias_names]) if bias_names else None
        return Projection(Weight.concat([self.weight(name) for name in names]), bias, self.threads, self.activations)

    def norm(self, name: str) -> Norm:
        spec = self.manifest.spec
        return Norm(self.vector(name) + np.float32(spec.norm_offset), spec.norm_eps, self.threads)

    def weight(self, name: str) -> Weight:
        """Pack one matrix."""
        entry = self._entry(name)
        rows, cols = entry.shape
        raw = self._rows(name)
        packed = Weight.pack(raw, entry.kind, (rows, cols), threads=self.threads, allocate=self._memory.take)
        self._let_go(entry)
        return packed

    def vector(self, name: str) -> Floats:
        """A float32 copy of a small tensor stored as plain floats."""
        entry = self._entry(name)
        if entry.kind not in _VECTOR_KINDS:
            raise UnsupportedModel(f"tensor `{name}` has type {entry.kind}; norms and biases must be F32, F16 or BF16")
        raw = self._rows(name).reshape(-1).copy()
        if entry.kind == "BF16":  # the upper half of a float32
            return (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
        return raw.view(_VECTOR_KINDS[entry.kind]).astype(np.float32)

    def _rows(self, name: str) -> Bytes:
        """The stored bytes, one row of the matrix per row (a vector: one value per row)."""
        entry = self._entry(name)
        flat = np.frombuffer(self._map(entry.file), dtype=np.uint8, count=entry.nbytes, offset=entry.offset)
        rows = flat.reshape(entry.shape[0], -1)
        part = name.rpartition(".")[2]
        if self.manifest.spec.interleaved_qk and part in _HALF_SPLIT:
            return half_split_rows(rows, self.manifest.spec)
        return rows

    def _entry(self, name: str) -> TensorEntry:
        if name not in self.manifest.tensors:
            raise ModelFileError(f"model `{self.manifest.name}` has no tensor `{name}`")
        return self.manifest.tensors[name]

    def _map(self, index: int) -> mmap.mmap:
        if index not in self._maps:
            path, expected = self.manifest.weight_path(index), self.manifest.files[index].nbytes
            try:
                with open_regular(path) as file:
                    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except (OSError, ValueError) as error:
                raise ModelFileError(f"cannot read the weights `{path}`: {error}") from error
            if len(mapped) != expected:
                raise ModelFileError(f"`{path}` has {len(mapped)} bytes, it had {expected} when it was registered")
            self._maps[index] = mapped
        return self._maps[index]

    def _let_go(self, entry: TensorEntry) -> None:
        """Drop the file's pages from this process; they stay in the system's cache."""
        if hasattr(mmap, "MADV_DONTNEED"):
            start = entry.offset // mmap.PAGESIZE * mmap.PAGESIZE
            self._map(entry.file).madvise(mmap.MADV_DONTNEED, start, entry.offset + entry.nbytes - start)


def half_split_rows(rows: Bytes, spec: ModelSpec) -> Bytes:
    """Undo the pairing of GGUF's Llama: rows (0, 1), (2, 3), ... of a head become halves (0, 2, ...), (1, 3, ...).

    A quantized row is a whole number of blocks, so rows move as bytes and nothing is quantized again.
    """
    half = spec.head_dim // 2
    return rows.reshape(-1, half, 2, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)
