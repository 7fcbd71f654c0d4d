"""Llama 2 and 3, SmolLM2, Mistral (``llama`` in GGUF files): pre-norm, SwiGLU, grouped-query attention."""

from __future__ import annotations

from dataclasses import replace

from kvloom.model.family import Family
from kvloom.model.keys import Keys
from kvloom.model.layers import pre_norm_block
from kvloom.model.shapes import BASE_TENSORS, HF_DEFAULTS, QKV_BIASES, SILU, gguf_spec, hf_spec, with_windows
from kvloom.model.spec import ModelSpec

_MISTRAL_DEFAULTS = {
    "intermediate_size": 14336,
    "num_key_value_heads": 8,
    "max_position_embeddings": 4096 * 32,
    "sliding_window": 4096,
}
"""Where transformers' MistralConfig differs from LlamaConfig."""


def _from_gguf(keys: Keys, vocab_size: int) -> ModelSpec:
    keys.refuse("expert_count", (None, 0))
    spec = gguf_spec("llama", keys, vocab_size)
    if spec.rope.dim != spec.head_dim:
        keys.refuse("rope.dimension_count")
    spec = replace(spec, interleaved_qk=True)
    if keys.size("attention.sliding_window", 0, least=0):
        return replace(spec, windows=(keys.size("attention.sliding_window"),) * spec.num_layers)
    return spec


def _from_hf(keys: Keys) -> ModelSpec:
    keys = keys.with_defaults(HF_DEFAULTS | (_MISTRAL_DEFAULTS if keys.get("model_type") == "mistral" else {}))
    keys.refuse("hidden_act", SILU)
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
