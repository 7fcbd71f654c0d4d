"""From a file's settings to the parts of a ModelSpec common to all families, and the resulting tensor shapes."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

import numpy as np

from kvloom.errors import ModelFileError, UnsupportedModel
from kvloom.model.keys import Keys
from kvloom.model.rope import inverse_frequencies
from kvloom.model.rope_settings import gguf_rope, hf_rope
from kvloom.model.spec import ModelSpec, RopeSpec

MOST_LAYERS = 1024
HEAD_DIM_STEP = 16
"""Attention works on this many components at a time."""

PROJECTIONS = frozenset({"q", "k", "v", "o", "gate", "up", "down"})
BASE_TENSORS = PROJECTIONS | {"attn_norm", "mlp_norm"}
QKV_BIASES = frozenset({"q_bias", "k_bias", "v_bias"})
QK_NORMS = frozenset({"q_norm", "k_norm"})


HF_DEFAULTS: dict[str, Any] = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
}
"""Defaults of config.json, from transformers' LlamaConfig; families override a few.

A null key is not absent: its meaning is up to the code that reads it.
"""
SILU = ("silu", "swish")
"""``hidden_act`` of every family but Gemma."""
Ropes = Callable[[Keys, int], tuple[RopeSpec, RopeSpec | None]]
"""From a config.json and the size of a head: RoPE of full layers, and of window layers if different."""


def one_rope(keys: Keys, head_dim: int) -> tuple[RopeSpec, None]:
    """The same RoPE in all layers."""
    return hf_rope(keys, head_dim, 10000.0), None


def gguf_spec(family: str, keys: Keys, vocab_size: int, rope_keys: Collection[str] = ()) -> ModelSpec:
    """The GGUF settings common to all families: full attention, scale 1/sqrt(head_dim).

    ``rope_keys``: those that the family reads itself.
    """
    width, heads = keys.size("embedding_length"), keys.size("attention.head_count")
    layers = keys.size("block_count", most=MOST_LAYERS)
    head_dim = _head_dim(keys, "attention.key_length", width, heads)
    if keys.size("attention.value_length", head_dim) != head_dim:
        keys.refuse("attention.value_length")
    return checked(
        ModelSpec(
            family=family,
            width=width,
            num_layers=layers,
            heads=heads,
            kv_heads=keys.size("attention.head_count_kv", heads),
            head_dim=head_dim,
            ffn_width=keys.size("feed_forward_length"),
            vocab_size=vocab_size,
            context_length=keys.size("context_length"),
            norm_eps=keys.number("attention.layer_norm_rms_epsilon"),
            windows=(None,) * layers,
            rope=gguf_rope(keys, head_dim, 10000.0, rope_keys),
            attn_scale=head_dim**-0.5,
        ),
        keys.origin,
    )


def hf_spec(family: str, keys: Keys, ropes: Ropes = one_rope) -> ModelSpec:
    """The config.json settings common to all families. ``keys`` have the defaults."""
    width, heads = keys.size("hidden_size"), keys.size("num_attention_heads")
    layers = keys.size("num_hidden_layers", most=MOST_LAYERS)
    head_dim = _head_dim(keys, "head_dim", width, heads)
    keys.refuse("quantization_config")
    keys.refuse("mlp_bias")
    rope, rope_local = ropes(keys, head_dim)
    return checked(
        ModelSpec(
            family=family,
            width=width,
            num_layers=layers,
            heads=heads,
            kv_heads=keys.size("num_key_value_heads", heads),
            head_dim=head_dim,
            ffn_width=keys.size("intermediate_size"),
            vocab_size=keys.size("vocab_size"),
            context_length=keys.size("max_position_embeddings"),
            norm_eps=keys.number("rms_norm_eps"),
            windows=(None,) * layers,
            rope=rope,
            rope_local=rope_local,
            attn_scale=head_dim**-0.5,
        ),
        keys.origin,
    )


def with_windows(spec: ModelSpec, keys: Keys, layer_types: Any) -> ModelSpec:
    """Give the layers of type ``sliding_attention`` the window that a config.json names. ``layer_types`` is its own."""
    if not isinstance(layer_types, list):
        raise keys.odd("layer_types", "a list")
    if len(layer_types) != spec.num_layers:
        raise ModelFileError(f"`{keys.origin}` has {len(layer_types)} layer types for {spec.num_layers} layers")
    for kind in layer_types:
        if kind not in ("sliding_attention", "full_attention"):
            raise UnsupportedModel(
                f"`{keys.origin}`: `layer_types` has {str(kind)[:40]!r}, which kvloom does not support"
            )
    windows = tuple(keys.size("sliding_window") if kind == "sliding_attention" else None for kind in layer_types)
    return replace(spec, windows=windows)


def checked(spec: ModelSpec, origin: str) -> ModelSpec:
    """Raise ModelFileError for inconsistent sizes, UnsupportedModel for head sizes that attention does not support."""
    if spec.heads % spec.kv_heads:
        raise ModelFileError(f"`{origin}`: {spec.heads} query heads cannot share {spec.kv_heads} KV heads")
    if spec.head_dim % HEAD_DIM_STEP:
        raise UnsupportedModel(f"`{origin}` has heads of {spec.head_dim}; kvloom supports multiples of {HEAD_DIM_STEP}")
    for rope in (spec.rope, spec.rope_local):
        if rope is not None:
            _check_rope(rope, spec, origin)
    return spec


def _check_rope(rope: RopeSpec, spec: ModelSpec, origin: str) -> None:
    if rope.dim % 2 or not 0 < rope.dim <= spec.head_dim:
        raise ModelFileError(f"`{origin}`: RoPE over {rope.dim} of {spec.head_dim} head components")
    with np.errstate(all="ignore"):
        frequencies = inverse_frequencies(rope)
        furthest = frequencies * np.float32(spec.context_length)
    if not (np.isfinite(furthest).all() and (frequencies > 0).all()):
        raise ModelFileError(
            f"`{origin}`: RoPE with base {rope.base} and scaling {rope.scaling and rope.scaling.kind} has frequencies "
            "that are 0 or not finite"
        )


def _head_dim(keys: Keys, key: str, width: int, heads: int) -> int:
    """The file's value, else an equal share of the width."""
    if keys.get(key) is None and width % heads:
        raise ModelFileError(f"`{keys.origin}`: a width of {width} cannot be shared by {heads} heads")
    return keys.size(key, width // heads)


def layer_shape(spec: ModelSpec, tensor: str) -> tuple[int, ...]:
    """The shape that a layer's tensor must have, by canonical name without its layer."""
    q_rows, kv_rows = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
    shapes: dict[str, tuple[int, ...]] = {
        "q": (q_rows, spec.width),
        "k": (kv_rows, spec.width),
        "v": (kv_rows, spec.width),
        "o": (spec.width, q_rows),
        "q_bias": (q_rows,),
        "k_bias": (kv_rows,),
        "v_bias": (kv_rows,),
        "q_norm": (spec.head_dim,),
        "k_norm": (spec.head_dim,),
        "gate": (spec.ffn_width, spec.width),
        "up": (spec.ffn_width, spec.width),
        "down": (spec.width, spec.ffn_width),
    }
    return shapes.get(tensor, (spec.width,))


def layer_parameters(spec: ModelSpec) -> int:
    """Numbers in the matrices of all layers."""
    return spec.num_layers * sum(math.prod(layer_shape(spec, name)) for name in PROJECTIONS)


def top_shape(spec: ModelSpec, tensor: str) -> tuple[int, ...]:
    """The shape of a tensor that belongs to no layer."""
    return (spec.width,) if tensor == "norm" else (spec.vocab_size, spec.width)
