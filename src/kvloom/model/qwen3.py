"""Qwen 3 (dense): Llama's layer with an RMS norm on every query and key head."""

from __future__ import annotations

from kvloom.model.family import Family
from kvloom.model.keys import Keys
from kvloom.model.layers import pre_norm_block
from kvloom.model.qwen2 import QWEN_HF_DEFAULTS, windows_of_qwen
from kvloom.model.shapes import BASE_TENSORS, QK_NORMS, QKV_BIASES, SILU, gguf_spec, hf_spec
from kvloom.model.spec import ModelSpec


def _from_gguf(keys: Keys, vocab_size: int) -> ModelSpec:
    return gguf_spec("qwen3", keys, vocab_size)


def _from_hf(keys: Keys) -> ModelSpec:
    keys = keys.with_defaults(QWEN_HF_DEFAULTS | {"head_dim": 128})
    keys.refuse("hidden_act", SILU)
    return windows_of_qwen(hf_spec("qwen3", keys), keys)


QWEN3 = Family(
    name="qwen3",
    gguf_names=("qwen3",),
    hf_names=("qwen3",),
    required=BASE_TENSORS | QK_NORMS,
    optional=QKV_BIASES | {"o_bias"},
    gguf_spec=_from_gguf,
    hf_spec=_from_hf,
    block=pre_norm_block,
)
