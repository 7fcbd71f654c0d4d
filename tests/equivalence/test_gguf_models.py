"""GGUF files of every family and tensor type against transformers running the same dequantized weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
import transformers

from bench.full_cache import full_logits
from kvloom.model.files.convert import Origin, convert
from kvloom.model.files.loading import load_model
from tiny_gguf import write_gguf

TOLERANCE = 1e-4
WIDE: dict[str, Any] = {  # K types need rows of whole 256-value blocks
    "vocab_size": 80,
    "hidden_size": 256,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "tie_word_embeddings": False,
}
KINDS = ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"]
TOKENS = torch.randint(0, 80, (40,), generator=torch.Generator().manual_seed(3)).tolist()


def tiny(config: transformers.PreTrainedConfig) -> transformers.PreTrainedModel:
    torch.manual_seed(5)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            spread, centre = (0.1, 0.0) if parameter.dim() > 1 else (0.2, 0.8)
            parameter.copy_(torch.randn_like(parameter) * spread + centre)
    return model


def assert_same_logits(path: Path, model: transformers.PreTrainedModel) -> None:
    """Within 1e-4 of the largest logit: random K blocks give logits far from 1."""
    target = path.parent / "ours"
    target.mkdir()
    ours = full_logits(
        load_model(convert(path, target, Origin("tiny", "test")), threads=2, activations="float32"), TOKENS, [40]
    )
    with torch.no_grad():
        expected = model(torch.tensor([TOKENS])).logits[0]
    scale = float(expected.abs().max())
    assert 0.5 < scale < 1000, f"logits of size {scale} show nothing"
    torch.testing.assert_close(ours, expected, atol=TOLERANCE * max(1.0, scale), rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_every_tensor_type(kind: str, tmp_path: Path) -> None:
    model = tiny(transformers.LlamaConfig(**WIDE))
    write_gguf(tmp_path / "tiny.gguf", model, "llama", kind)
    assert_same_logits(tmp_path / "tiny.gguf", model)


@pytest.mark.parametrize(
    ("arch", "config", "settings"),
    [
        ("llama", transformers.LlamaConfig, {"tie_word_embeddings": True, "attention_bias": False}),
        ("qwen2", transformers.Qwen2Config, {"tie_word_embeddings": True}),
        ("qwen3", transformers.Qwen3Config, {"head_dim": 32}),
        (
            "gemma3",
            transformers.Gemma3TextConfig,
            {
                "num_hidden_layers": 7,
                "head_dim": 32,
                "sliding_window": 12,
                "query_pre_attn_scalar": 32,
                "tie_word_embeddings": True,
            },
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_family(
    arch: str, config: type[transformers.PreTrainedConfig], settings: dict[str, Any], tmp_path: Path
) -> None:
    model = tiny(config(**WIDE | settings))
    write_gguf(tmp_path / "tiny.gguf", model, arch, "Q8_0")
    assert_same_logits(tmp_path / "tiny.gguf", model)


def test_linear_rope_scaling_of_the_global_layers(tmp_path: Path) -> None:
    rope = {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    }
    config = transformers.Gemma3TextConfig(
        **WIDE
        | {"num_hidden_layers": 6, "head_dim": 32, "sliding_window": 12, "query_pre_attn_scalar": 32}
        | {"rope_parameters": rope, "tie_word_embeddings": True}
    )
    model = tiny(config)
    extra = {"rope.scaling.type": "linear", "rope.scaling.factor": 8.0}
    write_gguf(tmp_path / "tiny.gguf", model, "gemma3", "F32", **extra)
    assert_same_logits(tmp_path / "tiny.gguf", model)


@pytest.mark.parametrize("spelling", ["rope.scaling.factor", "rope.scale_linear"])
def test_linear_rope_scaling_without_a_type(spelling: str, tmp_path: Path) -> None:
    model = tiny(transformers.LlamaConfig(**WIDE, rope_scaling={"rope_type": "linear", "factor": 4.0}))
    write_gguf(tmp_path / "tiny.gguf", model, "llama", "F32", **{spelling: 4.0})
    assert_same_logits(tmp_path / "tiny.gguf", model)


def test_llama3_divisors_as_a_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """GGUF stores Llama 3's RoPE scaling as one divisor per frequency."""
    scaling = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    }
    model = tiny(transformers.LlamaConfig(**WIDE, rope_theta=500.0, rope_scaling=scaling))
    plain = tiny(transformers.LlamaConfig(**WIDE, rope_theta=500.0))
    divisors = (plain.model.rotary_emb.inv_freq / model.model.rotary_emb.inv_freq).numpy()
    assert divisors.max() > 7
    assert divisors.min() == 1
    write_header = gguf.GGUFWriter.write_header_to_file

    def with_divisors(writer: gguf.GGUFWriter) -> None:
        writer.add_tensor("rope_freqs.weight", divisors)
        write_header(writer)

    monkeypatch.setattr(gguf.GGUFWriter, "write_header_to_file", with_divisors)
    write_gguf(tmp_path / "tiny.gguf", model, "llama", "F32")
    assert_same_logits(tmp_path / "tiny.gguf", model)
