"""Qwen 2 and 2.5: Llama's layer with biases on q, k and v, and a window on the upper layers when switched on."""

from __future__ import annotations

from kvloom.errors import ModelFileError
from kvloom.model.family import Family
from kvloom.model.keys import Keys
from kvloom.model.layers import pre_norm_block
from kvloom.model.shapes import BASE_TENSORS, HF_DEFAULTS, QKV_BIASES, SILU, gguf_spec, hf_spec, with_windows
from kvloom.model.spec import ModelSpec

QWEN_HF_DEFAULTS = HF_DEFAULTS | {
    "vocab_size": 151936,
    "intermediate_size": 22016,
    "num_key_value_heads": 32,
    "max_position_embeddings": 32768,
    "use_sliding_window": False,
    "sliding_window": 4096,
    "max_window_layers": 28,
}
"""As transformers' Qwen2Config and Qwen3Config have them."""


def windows_of_qwen(spec: ModelSpec, keys: Keys) -> ModelSpec:
    """Qwen's switch: ``use_sliding_window``, then ``layer_types`` or all layers from ``max_window_layers`` on."""
    windowed = keys.flag("use_sliding_window", False) and keys.get("sliding_window") is not None
    first = keys.size("max_window_layers", least=0) if windowed else spec.num_layers
    usual = ["sliding_attention" if layer >= first else "full_attention" for layer in range(spec.num_layers)]
    kinds = keys.get("layer_types", usual)
    if not windowed and isinstance(kinds, list) and "sliding_attention" in kinds:
        raise ModelFileError(f"`{keys.origin}` has window layers, but no sliding window is enabled")
    return with_windows(spec, keys, kinds)


def _from_gguf(keys: Keys, vocab_size: int) -> ModelSpec:
    return gguf_spec("qwen2", keys, vocab_size)


def _from_hf(keys: Keys) -> ModelSpec:
    keys = keys.with_defaults(QWEN_HF_DEFAULTS)
    keys.refuse("hidden_act", SILU)
    return windows_of_qwen(hf_spec("qwen2", keys), keys)


QWEN2 = Family(
    name="qwen2",
    gguf_names=("qwen2",),
    hf_names=("qwen2",),
    required=BASE_TENSORS | QKV_BIASES,
    gguf_spec=_from_gguf,
    hf_spec=_from_hf,
    block=pre_norm_block,
)
