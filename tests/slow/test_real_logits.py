"""SmolLM2 and Gemma 3 against transformers running the same dequantized weights in float32."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
import transformers

from bench.full_cache import full_logits
from kvloom.model.files.loading import load_model, load_tokenizer
from kvloom.model.files.manifest import Manifest
from real_models import dequantized, manifest_of

pytestmark = pytest.mark.real

TOLERANCE = 1e-4
"""Largest difference of a logit, relative to the largest logit."""

KEEP = 90
"""Positions compared, from the end: 90 rows over 262,144 tokens are 94 MB."""

TEXT = (
    "A tide pool is a small world that the sea leaves behind twice a day. In it live crabs, anemones and "
    "limpets, each with its own way of waiting for the water: some close, some hide, some cling. Visitors who "
    "stand still for ten minutes see more than those who walk the whole beach. def wait(minutes: int) -> None: "
    "print('still here', minutes)  # 1 2 3 42 Größe 日本 😀\n\nThe most patient animal of all is"
)
HF_NAMES = {
    "attn_norm": "input_layernorm",
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "q_norm": "self_attn.q_norm",
    "k_norm": "self_attn.k_norm",
    "mlp_norm": "post_attention_layernorm",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
GEMMA_NAMES = {
    "post_attn_norm": "post_attention_layernorm",
    "mlp_norm": "pre_feedforward_layernorm",
    "post_mlp_norm": "post_feedforward_layernorm",
}


@cache
def smollm2() -> tuple[Manifest, transformers.PreTrainedModel]:
    manifest = manifest_of("smollm2-135m-instruct")
    config = transformers.LlamaConfig(
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=8192,
        rope_theta=100000.0,
        rms_norm_eps=1e-5,
        vocab_size=49152,
        tie_word_embeddings=True,
    )
    return manifest, _filled(manifest, config, {}, norm_offset=0.0)


@cache
def gemma3() -> tuple[Manifest, transformers.PreTrainedModel]:
    manifest = manifest_of("gemma-3-270m")
    config = transformers.Gemma3TextConfig(
        hidden_size=640,
        intermediate_size=2048,
        num_hidden_layers=18,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=256,
        max_position_embeddings=32768,
        sliding_window=512,
        query_pre_attn_scalar=256,
        rms_norm_eps=1e-6,
        vocab_size=262144,
        tie_word_embeddings=True,
    )
    return manifest, _filled(manifest, config, GEMMA_NAMES, norm_offset=-1.0)


def _filled(manifest: Manifest, config: Any, names: dict[str, str], norm_offset: float) -> transformers.PreTrainedModel:
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    state = dict(model.named_parameters())
    with torch.no_grad():
        for name in manifest.tensors:
            values = dequantized(manifest, name)
            if name.endswith("norm"):
                values = values + norm_offset
            if manifest.family == "llama" and name.endswith((".q", ".k")):  # GGUF's Llama pairs rows
                values = values.reshape(-1, 32, 2, values.shape[1]).transpose(1, 2).reshape(values.shape)
            state[_hf_name(name, HF_NAMES | names)].copy_(values)
    return model


def _hf_name(name: str, names: dict[str, str]) -> str:
    if name in ("embed", "norm"):
        return {"embed": "model.embed_tokens.weight", "norm": "model.norm.weight"}[name]
    _, layer, part = name.split(".")
    return f"model.layers.{layer}.{names[part]}.weight"


def _largest_error(manifest: Manifest, theirs: transformers.PreTrainedModel, tokens: list[int]) -> float:
    with torch.no_grad():
        expected = theirs(torch.tensor([tokens]), logits_to_keep=KEEP).logits[0]
    ours = full_logits(
        load_model(manifest, threads=2, activations="float32"), tokens, [len(tokens) - 40, 1, 39], keep=KEEP
    )
    assert ours.shape == expected.shape
    assert torch.equal(ours.argmax(-1), expected.argmax(-1))
    return float((ours - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("model", [smollm2, gemma3], ids=["smollm2", "gemma3"])
def test_logits_equal_transformers(model: Any, record_property: Any) -> None:
    manifest, theirs = model()
    tokens = load_tokenizer(manifest).encode(TEXT)
    assert len(tokens) > 90
    error = _largest_error(manifest, theirs, tokens)
    record_property("largest_error", error)
    print(f"largest error relative to the largest logit: {error:.2e}")
    assert error < TOLERANCE


def test_gemma_beyond_its_window() -> None:
    """700 tokens: the window layers have long let go of the first ones."""
    manifest, theirs = gemma3()
    tokens = (load_tokenizer(manifest).encode(TEXT) * 8)[:700]
    assert _largest_error(manifest, theirs, tokens) < TOLERANCE
