"""Every family against transformers: tiny random models, float32 logits at every position."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.decoders import ByteLevel

from bench.full_cache import full_logits
from kvloom.model.base import Model
from kvloom.model.files.convert import Origin, convert
from kvloom.model.files.loading import load_model

TOLERANCE = 1e-4
VOCAB = 96
SMALL: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}


@dataclasses.dataclass(frozen=True)
class Case:
    """A configuration whose every switch must matter."""

    name: str
    config: type[transformers.PreTrainedConfig]
    settings: dict[str, Any]
    windows: set[int | None]


LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
CASES = [
    Case("llama", transformers.LlamaConfig, {"tie_word_embeddings": True}, {None}),
    Case("llama-untied-mha", transformers.LlamaConfig, {"num_key_value_heads": 4}, {None}),
    Case("llama-biased", transformers.LlamaConfig, {"attention_bias": True}, {None}),
    Case("llama3-rope", transformers.LlamaConfig, {"rope_scaling": LLAMA3, "rope_theta": 500.0}, {None}),
    Case(
        "llama-linear-rope", transformers.LlamaConfig, {"rope_scaling": {"rope_type": "linear", "factor": 4.0}}, {None}
    ),
    Case("mistral", transformers.MistralConfig, {"sliding_window": 24, "head_dim": 32}, {24}),
    Case("mistral-no-window", transformers.MistralConfig, {"sliding_window": None}, {None}),
    Case("qwen2", transformers.Qwen2Config, {}, {None}),
    Case(
        "qwen2-window",
        transformers.Qwen2Config,
        {"use_sliding_window": True, "sliding_window": 20, "max_window_layers": 1},
        {None, 20},
    ),
    Case("qwen3", transformers.Qwen3Config, {"head_dim": 32, "tie_word_embeddings": True}, {None}),
    Case(
        "gemma3",
        transformers.Gemma3TextConfig,
        {"num_hidden_layers": 7, "head_dim": 32, "sliding_window": 16, "query_pre_attn_scalar": 24},
        {None, 16},
    ),
    Case(
        "gemma3-scaled",
        transformers.Gemma3TextConfig,
        {
            "num_hidden_layers": 6,
            "head_dim": 16,
            "sliding_window": 24,
            "query_pre_attn_scalar": 16,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        },
        {None, 24},
    ),
]


def save_tokenizer(directory: Path) -> None:
    """One letter per token: these tests are about logits."""
    letters = {letter: index for index, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet())[:VOCAB])}
    tokenizer = Tokenizer(models.BPE(vocab=letters, merges=[]))
    tokenizer.decoder = ByteLevel()
    tokenizer.save(str(directory / "tokenizer.json"))


def random_model(case: Case) -> transformers.PreTrainedModel:
    """Weights large enough that norms, biases and gates all show in the logits."""
    torch.manual_seed(len(case.name))
    config = case.config(**SMALL | case.settings)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.copy_(torch.randn_like(parameter) * 0.3 + (0.0 if "bias" in name else 0.7))
            else:
                parameter.copy_(torch.randn_like(parameter) * 0.15)
    return model


def their_logits(model: transformers.PreTrainedModel, tokens: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([tokens])).logits[0].float()


def our_model(model: Path, target: Path) -> Model:
    target.mkdir(exist_ok=True)
    return load_model(convert(model, target, Origin("tiny", "test")), threads=2, activations="float32")


def exact_logits(directory: Path, tokens: list[int]) -> torch.Tensor:
    """transformers' logits from the saved weights, computed in float32."""
    loaded = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    return their_logits(loaded.eval(), tokens)


@pytest.fixture
def tokens() -> list[int]:
    """44 tokens: longer than every window of the cases."""
    return torch.randint(0, VOCAB, (44,), generator=torch.Generator().manual_seed(7)).tolist()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_float32_logits_equal_transformers(case: Case, tokens: list[int], tmp_path: Path) -> None:
    theirs = random_model(case)
    theirs.save_pretrained(tmp_path / "hf")
    save_tokenizer(tmp_path / "hf")
    expected = their_logits(theirs, tokens)
    assert expected.abs().max() > 0.5, "logits too small to compare"
    ours = our_model(tmp_path / "hf", tmp_path / "ours")
    assert {layer.window for layer in ours.kv_map.layers} == case.windows
    assert [layer.owner for layer in ours.kv_map.layers] == list(range(len(ours.kv_map.layers)))
    whole = full_logits(ours, tokens, [44])
    torch.testing.assert_close(whole, expected, atol=TOLERANCE, rtol=0)
    chunked = full_logits(ours, tokens, [31, 1, 1, 11])
    assert torch.equal(chunked, whole), "a token's bits depend on the rows beside it"


@pytest.mark.parametrize("name", ["llama", "qwen2", "gemma3"])
def test_sharded_bfloat16_equals_transformers(name: str, tokens: list[int], tmp_path: Path) -> None:
    theirs = random_model(next(case for case in CASES if case.name == name)).to(torch.bfloat16)
    theirs.save_pretrained(tmp_path / "hf", max_shard_size="40KB")
    save_tokenizer(tmp_path / "hf")
    assert len(list((tmp_path / "hf").glob("*.safetensors"))) > 2
    ours = full_logits(our_model(tmp_path / "hf", tmp_path / "ours"), tokens, [44])
    torch.testing.assert_close(ours, exact_logits(tmp_path / "hf", tokens), atol=TOLERANCE, rtol=0)


def test_float16_with_old_rope_fields(tokens: list[int], tmp_path: Path) -> None:
    """Published config.json files say rope_theta and rope_scaling, not rope_parameters."""
    case = next(case for case in CASES if case.name == "llama3-rope")
    theirs = random_model(case).to(torch.float16)
    theirs.save_pretrained(tmp_path / "hf")
    save_tokenizer(tmp_path / "hf")
    expected = exact_logits(tmp_path / "hf", tokens)
    path = tmp_path / "hf" / "config.json"
    config = json.loads(path.read_text())
    config.pop("rope_parameters")
    path.write_text(json.dumps(config | {"rope_theta": 500.0, "rope_scaling": LLAMA3}))
    ours = full_logits(our_model(tmp_path / "hf", tmp_path / "ours"), tokens, [44])
    torch.testing.assert_close(ours, expected, atol=TOLERANCE, rtol=0)


def test_a_wrong_switch_would_be_noticed(tokens: list[int], tmp_path: Path) -> None:
    """The comparison is sharp: another window or RoPE base moves logits far beyond the tolerance."""
    case = next(case for case in CASES if case.name == "gemma3")
    theirs = random_model(case)
    theirs.save_pretrained(tmp_path / "hf")
    save_tokenizer(tmp_path / "hf")
    (tmp_path / "ours").mkdir()
    manifest = convert(tmp_path / "hf", tmp_path / "ours", Origin("tiny", "test"))
    expected = their_logits(theirs, tokens)
    spec = manifest.spec
    assert spec.rope_local is not None
    changes: list[dict[str, Any]] = [
        {"windows": tuple(None if w is None else w + 1 for w in spec.windows)},
        {"rope_local": spec.rope},
        {"rope": spec.rope_local},
        {"attn_scale": spec.head_dim**-0.5},
        {"norm_offset": 0.0},
        {"embed_scale": 1.0},
    ]
    for change in changes:
        wrong = load_model(
            dataclasses.replace(manifest, spec=dataclasses.replace(spec, **change)), threads=1, activations="float32"
        )
        assert (full_logits(wrong, tokens, [44]) - expected).abs().max() > 10 * TOLERANCE, change
