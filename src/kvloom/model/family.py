"""The description of a model family: one instance per family, each in a short file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from kvloom.model.keys import Keys
from kvloom.model.layers import Block, Tensors
from kvloom.model.rope import RopeTable
from kvloom.model.spec import ModelSpec

BuildBlock = Callable[[ModelSpec, Tensors, int, RopeTable], Block]


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """
    Parameters
    ----------
    gguf_names, hf_names:
        ``general.architecture`` of GGUF files, and ``model_type`` of config.json, that this family runs.
    required, optional:
        Tensors of a layer, by canonical name.
    gguf_spec:
        From GGUF metadata (keys without the architecture's prefix) and the vocabulary's size.
    tied_by_default:
        Default of ``tie_word_embeddings`` in config.json.
    hf_tensor_names:
        Where safetensors names have another meaning than usual, see ``names.hf_name``.
    """

    name: str
    gguf_names: tuple[str, ...]
    hf_names: tuple[str, ...]
    required: frozenset[str]
    optional: frozenset[str] = frozenset()
    gguf_spec: Callable[[Keys, int], ModelSpec]
    hf_spec: Callable[[Keys], ModelSpec]
    block: BuildBlock
    tied_by_default: bool = False
    hf_tensor_names: Mapping[str, str] = field(default_factory=dict)
