"""Llama 2 and 3, SmolLM2, Mistral (whose GGUF files call themselves llama): pre-norm, SwiGLU, grouped heads."""

from __future__ import annotations

from dataclasses import replace

from kvloom.model.family import Family
from kvloom.model.keys import Keys
from kvloom.model.layers import pre_norm_block
from kvloom.model.shapes import BASE_TENSORS, QKV_BIASES, gguf_spec, hf_spec, with_windows
from kvloom.model.spec import ModelSpec


def _from_gguf(keys: Keys, vocab_size: int) -> ModelSpec:
    keys.refuse("expert_count", (None, 0))
    spec = replace(gguf_spec("llama", keys, vocab_size), interleaved_qk=True)
    if keys.get("attention.sliding_window"):
        return replace(spec, windows=(keys.size("attention.sliding_window"),) * spec.num_layers)
    return spec


def _from_hf(keys: Keys) -> ModelSpec:
    spec = hf_spec("llama", keys)
    windowed = keys.get("model_type") == "mistral" and keys.get("sliding_window") is not None
    return with_windows(spec, keys, ["sliding_attention"] * spec.num_layers) if windowed else spec


LLAMA = Family(
    name="llama",
    gguf_names=("llama",),
    hf_names=("llama", "mistral"),
    required=BASE_TENSORS,
    optional=QKV_BIASES | {"o_bias"},
    gguf_spec=_from_gguf,
    hf_spec=_from_hf,
    block=pre_norm_block,
)
