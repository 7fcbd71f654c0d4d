"""A config.json that leaves a key out, or has null there, means what transformers' config classes take it to mean."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import transformers

from kvloom.errors import ModelError
from kvloom.model.keys import Keys
from kvloom.model.registry import family_of_hf
from kvloom.model.spec import ModelSpec

SETTINGS: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 4608,
    "intermediate_size": 640,
    "num_hidden_layers": 12,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "rope_theta": 2e4,
    "hidden_act": "silu",
}
WINDOWS = {"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 3}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": SETTINGS,
    "mistral": SETTINGS | {"sliding_window": 64},
    "qwen2": {key: value for key, value in SETTINGS.items() if key != "head_dim"} | WINDOWS,
    "qwen3": SETTINGS | WINDOWS,
    "gemma3_text": {key: value for key, value in SETTINGS.items() if key != "hidden_act"}
    | {
        "hidden_activation": "gelu_pytorch_tanh",
        "rope_local_base_freq": 3e4,
        "sliding_window": 64,
        "sliding_window_pattern": 4,
        "query_pre_attn_scalar": 64,
    },
}
NULLABLE = {
    "llama": ("num_key_value_heads", "head_dim"),
    "mistral": ("head_dim", "sliding_window"),
    "qwen2": ("num_key_value_heads", "sliding_window"),
    "qwen3": ("num_key_value_heads", "sliding_window"),
    "gemma3_text": (),
}
CASES = [(kind, key) for kind, settings in FAMILIES.items() for key in [None, *settings]]


def ours(kind: str, config: dict[str, Any]) -> tuple[ModelSpec, bool]:
    family = family_of_hf(kind, "x")
    keys = Keys({"model_type": kind, **config}, "x/config.json")
    return family.hf_spec(keys), keys.flag("tie_word_embeddings", family.tied_by_default)


def assert_equal(kind: str, config: dict[str, Any]) -> None:
    theirs = transformers.AutoConfig.for_model(kind, **copy.deepcopy(config))
    spec, tied = ours(kind, config)
    assert tied == theirs.tie_word_embeddings
    head_dim = getattr(theirs, "head_dim", None) or theirs.hidden_size // theirs.num_attention_heads
    assert (spec.vocab_size, spec.width, spec.ffn_width) == (
        theirs.vocab_size,
        theirs.hidden_size,
        theirs.intermediate_size,
    )
    assert (spec.num_layers, spec.heads, spec.kv_heads, spec.head_dim) == (
        theirs.num_hidden_layers,
        theirs.num_attention_heads,
        theirs.num_key_value_heads,
        head_dim,
    )
    assert (spec.context_length, spec.norm_eps) == (theirs.max_position_embeddings, theirs.rms_norm_eps)
    assert spec.attn_scale == pytest.approx(getattr(theirs, "query_pre_attn_scalar", head_dim) ** -0.5)
    window = getattr(theirs, "sliding_window", None)
    usual = ["full_attention" if window is None else "sliding_attention"] * theirs.num_hidden_layers
    kinds = getattr(theirs, "layer_types", None) or usual
    assert spec.windows == tuple(window if kind == "sliding_attention" else None for kind in kinds)
    rope = theirs.rope_parameters
    assert spec.rope.base == rope.get("full_attention", rope)["rope_theta"]
    if spec.rope_local is not None:
        assert spec.rope_local.base == rope["sliding_attention"]["rope_theta"]


@pytest.mark.parametrize(("kind", "absent"), CASES)
def test_key_that_is_left_out(kind: str, absent: str | None) -> None:
    assert_equal(kind, {key: value for key, value in FAMILIES[kind].items() if key != absent})


@pytest.mark.parametrize(("kind", "key"), [(kind, key) for kind, keys in NULLABLE.items() for key in keys])
def test_null_where_it_means_something(kind: str, key: str) -> None:
    assert_equal(kind, FAMILIES[kind] | {key: None})


@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.parametrize("key", ["hidden_size", "num_attention_heads", "rms_norm_eps", "max_position_embeddings"])
@pytest.mark.parametrize("value", [None, True, -1, 0, float("nan"), float("inf"), 1e400, 1 << 60, "12", [1], {}])
def test_values_that_cannot_be(kind: str, key: str, value: Any) -> None:
    if (key, value) == ("rms_norm_eps", 1 << 60):
        return  # finite and positive
    with pytest.raises(ModelError, match=key):
        ours(kind, FAMILIES[kind] | {key: value})


@pytest.mark.parametrize(
    ("kind", "change", "reason"),
    [
        ("llama", {"hidden_act": "gelu_pytorch_tanh"}, "sets `hidden_act` to 'gelu_pytorch_tanh'"),
        ("gemma3_text", {"hidden_activation": "silu"}, "sets `hidden_activation` to 'silu'"),
        ("qwen2", {"layer_types": ["chunked_attention"] * 12}, "`layer_types` has 'chunked_attention'"),
        ("qwen2", {"layer_types": "all"}, "`layer_types` should be a list"),
        (
            "qwen2",
            {"layer_types": ["sliding_attention"] * 12, "use_sliding_window": False},
            "no sliding window is enabled",
        ),
        ("qwen2", {"use_sliding_window": "yes"}, "`use_sliding_window` should be true or false, not 'yes'"),
        ("qwen2", {"max_window_layers": -1}, "`max_window_layers` should be a number from 0"),
        ("gemma3_text", {"sliding_window_pattern": 0}, "`sliding_window_pattern` should be a number from 1"),
        ("gemma3_text", {"query_pre_attn_scalar": 0}, "`query_pre_attn_scalar` should be a finite positive number"),
        ("llama", {"num_key_value_heads": 3}, "cannot share 3 KV heads"),
        ("llama", {"head_dim": None, "num_attention_heads": 7}, "cannot be shared by 7 heads"),
        ("llama", {"rope_theta": 1.3e-38}, "frequencies that are 0 or not finite"),
    ],
)
def test_refused_by_name(kind: str, change: dict[str, Any], reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        ours(kind, FAMILIES[kind] | change)
