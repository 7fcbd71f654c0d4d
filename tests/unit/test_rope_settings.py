"""RoPE however it is spelled: equal to transformers' reading of config.json and to llama.cpp's of GGUF, or refused."""

from __future__ import annotations

from typing import Any

import pytest
import transformers

from kvloom.errors import ModelError, ModelFileError, UnsupportedModel
from kvloom.model.keys import Keys
from kvloom.model.rope import inverse_frequencies
from kvloom.model.rope_settings import gguf_rope, hf_rope, hf_ropes_by_layer
from kvloom.model.spec import LinearScaling, RopeSpec

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
HEAD_DIM = 32


def gguf(**settings: Any) -> RopeSpec:
    values = {f"llama.rope.{key.replace('__', '.')}": value for key, value in settings.items()}
    return gguf_rope(Keys(values, "x.gguf", "llama."), HEAD_DIM, 10000.0)


@pytest.mark.parametrize(
    ("settings", "factor"),
    [
        ({}, None),
        ({"scaling__type": "linear", "scaling__factor": 4.0}, 4.0),
        ({"scaling__factor": 4.0}, 4.0),
        ({"scale_linear": 4.0}, 4.0),
        ({"scaling__factor": 4.0, "scale_linear": 4.0}, 4.0),
        ({"scaling__type": "none", "scaling__original_context_length": 4096, "scaling__finetuned": False}, None),
        ({"scaling__type": "none", "scaling__factor": 1.0}, None),
        ({"scaling__factor": 1.0, "scaling__attn_factor": 1.0}, None),
    ],
)
def test_gguf_factor(settings: dict[str, Any], factor: float | None) -> None:
    assert gguf(**settings).scaling == (None if factor is None else LinearScaling(factor))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"scaling__type": "yarn", "scaling__factor": 4.0}, "scaling `yarn`"),
        ({"scaling__type": "none", "scaling__factor": 4.0}, "none, and a factor of 4.0"),
        ({"scaling__factor": 4.0, "scale_linear": 2.0}, "two RoPE factors: 2.0 and 4.0"),
        ({"scaling__type": "linear"}, "has no `llama.rope.scaling.factor`"),
        ({"scaling__factor": 0.0}, "`llama.rope.scaling.factor` should be a finite positive number, not 0.0"),
        ({"scale_linear": float("nan")}, "`llama.rope.scale_linear` should be a finite positive number, not nan"),
        ({"freq_base": float("inf")}, "`llama.rope.freq_base` should be a finite positive number, not inf"),
        ({"freq_base": -1.0}, "`llama.rope.freq_base` should be"),
        ({"scaling__type": 3}, "`llama.rope.scaling.type` should be a text, not 3"),
        ({"scaling__attn_factor": 0.8}, "sets `llama.rope.scaling.attn_factor` to 0.8"),
        ({"scaling__alpha": 1000.0}, "sets `llama.rope.scaling.alpha`"),
        ({"scaling__yarn_ext_factor": 1.0}, "sets `llama.rope.scaling.yarn_ext_factor`"),
        ({"freq_base_swa": 1e4}, "sets `llama.rope.freq_base_swa`"),
        ({"dimension_sections": [16, 24, 24, 0]}, "sets `llama.rope.dimension_sections`"),
    ],
)
def test_gguf_refused_by_name(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        gguf(**settings)


def test_gguf_keys_under_another_architecture_are_not_passed_over() -> None:
    with pytest.raises(UnsupportedModel, match=r"sets `qwen2\.rope\.scaling\.factor`"):
        gguf_rope(Keys({"qwen2.rope.scaling.factor": 4.0}, "x.gguf", "llama."), HEAD_DIM, 10000.0)


def hf(config: dict[str, Any]) -> RopeSpec:
    return hf_rope(Keys({"max_position_embeddings": 2048, **config}, "x/config.json"), HEAD_DIM, 10000.0)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"rope_theta": 5e5},
        {"rope_parameters": {"rope_theta": 5e5}},
        {"rope_theta": 1e4, "rope_parameters": {"rope_theta": 5e5}},
        {"rope_theta": 1e6, "rope_scaling": {"type": "linear", "factor": 4.0}},
        {"rope_theta": 1e6, "rope_scaling": {"rope_type": "linear", "factor": 4.0, "type": "linear"}},
        {"rope_theta": 1e6, "rope_scaling": {"rope_theta": 5e5, "rope_type": "linear", "factor": 4.0}},
        {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 5e5}},
        {"rope_scaling": {"rope_type": "default", "factor": 1.0}},
        {"rope_scaling": None, "rope_theta": 5e5},
        {"rope_scaling": LLAMA3, "rope_theta": 5e5},
        {"rope_scaling": LLAMA3 | {"original_max_position_embeddings": 512}, "rope_theta": 5e5},
        {"rope_theta": 5e5, "partial_rotary_factor": 1.0, "rope_interleaved": False},
    ],
)
def test_config_equals_transformers(config: dict[str, Any]) -> None:
    theirs = transformers.LlamaConfig(hidden_size=64, num_attention_heads=2, **config)
    rotary = transformers.models.llama.modeling_llama.LlamaRotaryEmbedding(theirs)
    ours = inverse_frequencies(hf(config))
    assert ours.tolist() == pytest.approx(rotary.inv_freq.tolist(), rel=1e-6)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"partial_rotary_factor": 0.5}, "sets `partial_rotary_factor` to 0.5"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "sets `partial_rotary_factor` to 0.5"),
        ({"rotary_pct": 0.25}, "sets `rotary_pct`"),
        ({"no_rope_layers": [1, 0]}, "sets `no_rope_layers`"),
        ({"rope_interleaved": True}, "sets `rope_interleaved`"),
        ({"rope_scaling": {"factor": 4.0}}, "sets `factor` to 4.0"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "scaling `yarn`"),
        ({"rope_scaling": {"rope_type": "default", "type": "yarn"}}, "scaling `default` and `yarn`"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0, "beta_fast": 32}}, "sets `beta_fast` to 32"),
        ({"rope_scaling": {"type": "linear", "factor": 0}}, "`factor` should be a finite positive number, not 0"),
        ({"rope_scaling": {"type": "linear"}}, "has no `factor`"),
        ({"rope_scaling": "linear"}, "`rope_scaling` should be an object, not 'linear'"),
        ({"rope_scaling": {"type": ["linear"]}}, "`type` should be a text"),
        ({"rope_scaling": LLAMA3 | {"low_freq_factor": 4.0}}, "low_freq_factor 4.0 should be less than"),
        ({"rope_theta": True}, "`rope_theta` should be a finite positive number, not True"),
        (
            {"rope_scaling": {"rope_type": "linear", "factor": 2.0}, "rope_parameters": {"rope_type": "default"}},
            "rope_parameters and rope_scaling differ in `rope_type`",
        ),
        ({"rope_parameters": {"full_attention": {"rope_theta": 5e5}}}, "sets `full_attention`"),
    ],
)
def test_config_refused_by_name(config: dict[str, Any], reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        hf(config)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"rope_theta": 7e5, "rope_local_base_freq": 9e3, "rope_scaling": {"rope_type": "linear", "factor": 8.0}},
        {"rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 2e6}}},
        {
            "rope_parameters": {
                "full_attention": {"rope_theta": 2e6},
                "sliding_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 3e4},
            },
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        },
    ],
)
def test_two_kinds_of_layers_equal_transformers(config: dict[str, Any]) -> None:
    theirs = transformers.Gemma3TextConfig(head_dim=HEAD_DIM, **config)
    rotary = transformers.models.gemma3.modeling_gemma3.Gemma3RotaryEmbedding(theirs)
    full, local = hf_ropes_by_layer(Keys(config, "x/config.json"), HEAD_DIM, 1e6, 1e4)
    assert inverse_frequencies(full).tolist() == pytest.approx(rotary.full_attention_inv_freq.tolist(), rel=1e-6)
    assert inverse_frequencies(local).tolist() == pytest.approx(rotary.sliding_attention_inv_freq.tolist(), rel=1e-6)


def test_settings_of_other_kinds_of_layers_are_refused() -> None:
    config = {"rope_parameters": {"rope_theta": 5e5}}
    with pytest.raises(UnsupportedModel, match="sets `rope_theta`"):
        hf_ropes_by_layer(Keys(config, "x/config.json"), HEAD_DIM, 1e6, 1e4)
    with pytest.raises(ModelFileError, match="`full_attention` should be an object, not 3"):
        hf_ropes_by_layer(Keys({"rope_parameters": {"full_attention": 3}}, "x"), HEAD_DIM, 1e6, 1e4)
