"""From a file's settings to a ModelSpec, as far as all families agree; and the tensor shapes that follow."""

from __future__ import annotations

from dataclasses import replace

from kvloom.errors import ModelFileError, UnsupportedModel
from kvloom.model.keys import Keys, gguf_rope, hf_rope
from kvloom.model.spec import ModelSpec

MOST_LAYERS = 1024
HEAD_DIM_STEP = 16
"""Attention works on this many components at a time."""

BASE_TENSORS = frozenset({"attn_norm", "q", "k", "v", "o", "mlp_norm", "gate", "up", "down"})
QKV_BIASES = frozenset({"q_bias", "k_bias", "v_bias"})
QK_NORMS = frozenset({"q_norm", "k_norm"})


def gguf_spec(family: str, keys: Keys, vocab_size: int) -> ModelSpec:
    """What a GGUF file says in every family: full attention, scale 1/sqrt(head_dim)."""
    width, heads = keys.size("embedding_length"), keys.size("attention.head_count")
    layers = keys.size("block_count", most=MOST_LAYERS)
    head_dim = keys.size("attention.key_length", width // heads)
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
            rope=gguf_rope(keys, head_dim, 10000.0),
            attn_scale=head_dim**-0.5,
        ),
        keys.origin,
    )


def hf_spec(family: str, keys: Keys) -> ModelSpec:
    """What a config.json says in every family: full attention, scale 1/sqrt(head_dim)."""
    width, heads = keys.size("hidden_size"), keys.size("num_attention_heads")
    layers = keys.size("num_hidden_layers", most=MOST_LAYERS)
    head_dim = keys.size("head_dim", width // heads)
    keys.refuse("quantization_config")
    keys.refuse("mlp_bias")
    keys.refuse("hidden_act", (None, "silu", "gelu_pytorch_tanh"))
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
            norm_eps=keys.number("rms_norm_eps", 1e-6),
            windows=(None,) * layers,
            rope=hf_rope(keys, head_dim, 10000.0, "full_attention"),
            attn_scale=head_dim**-0.5,
        ),
        keys.origin,
    )


def with_windows(spec: ModelSpec, keys: Keys, layer_types: list[str]) -> ModelSpec:
    """Give the layers of type ``sliding_attention`` the window that a config.json names."""
    if len(layer_types) != spec.num_layers:
        raise ModelFileError(f"`{keys.origin}` has {len(layer_types)} layer types for {spec.num_layers} layers")
    windows = tuple(keys.size("sliding_window") if kind == "sliding_attention" else None for kind in layer_types)
    return replace(spec, windows=windows)


def checked(spec: ModelSpec, origin: str) -> ModelSpec:
    """Raise ModelFileError for sizes that cannot belong together, UnsupportedModel for heads we cannot attend with."""
    if spec.heads % spec.kv_heads:
        raise ModelFileError(f"`{origin}`: {spec.heads} query heads cannot share {spec.kv_heads} KV heads")
    if spec.head_dim % HEAD_DIM_STEP:
        raise UnsupportedModel(f"`{origin}` has heads of {spec.head_dim}; kvloom runs multiples of {HEAD_DIM_STEP}")
    if spec.rope.dim % 2 or spec.rope.dim > spec.head_dim:
        raise ModelFileError(f"`{origin}`: RoPE over {spec.rope.dim} of {spec.head_dim} head components")
    return spec


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


def top_shape(spec: ModelSpec, tensor: str) -> tuple[int, ...]:
    """The shape of a tensor that belongs to no layer."""
    return (spec.width,) if tensor == "norm" else (spec.vocab_size, spec.width)
