"""Qwen 2 and 2.5: Llama's layer with biases on q, k and v, and a window on the upper layers when switched on."""

from __future__ import annotations

from kvloom.model.family import Family
from kvloom.model.keys import Keys
from kvloom.model.layers import pre_norm_block
from kvloom.model.shapes import BASE_TENSORS, QKV_BIASES, gguf_spec, hf_spec, with_windows
from kvloom.model.spec import ModelSpec


def windows_of_qwen(spec: ModelSpec, keys: Keys) -> ModelSpec:
    """Qwen's switch: ``use_sliding_window``, then ``layer_types`` or all layers from ``max_window_layers`` on."""
    if not keys.get("use_sliding_window"):
        return spec
    first = keys.get("max_window_layers", 28)
    usual = ["sliding_attention" if layer >= first else "full_attention" for layer in range(spec.num_layers)]
    return with_windows(spec, keys, keys.get("layer_types", usual))


def _from_gguf(keys: Keys, vocab_size: int) -> ModelSpec:
    return gguf_spec("qwen2", keys, vocab_size)


def _from_hf(keys: Keys) -> ModelSpec:
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
