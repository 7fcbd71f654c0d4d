"""The divergence is zero between equals, and noticed between models that differ."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import transformers

from bench.claims.int8_kl import Reading, compare, read
from kvloom.config import Activations, KvDtype
from kvloom.model.base import Model
from kvloom.model.decoder import Decoder
from kvloom.model.files.convert import Origin, convert
from kvloom.model.files.loading import load_model
from kvloom.model.files.manifest import Manifest
from tiny_gguf import write_gguf

TOKENS = torch.randint(2, 64, (90,), generator=torch.Generator().manual_seed(1)).tolist()


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    folder = tmp_path_factory.mktemp("int8")
    (folder / "out").mkdir()
    config = transformers.LlamaConfig(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=64,
        max_position_embeddings=256,
    )
    torch.manual_seed(0)
    write_gguf(folder / "tiny.gguf", transformers.LlamaForCausalLM(config), "llama", "Q8_0")
    return convert(folder / "tiny.gguf", folder / "out", Origin("tiny", "test"))


def load(manifest: Manifest, activations: Activations) -> Model:
    return load_model(manifest, 1, activations)


def reading(manifest: Manifest, activations: Activations, kv_dtype: KvDtype = "float32") -> Reading:
    return read(load(manifest, activations), activations, kv_dtype, TOKENS, 1)


def test_a_model_does_not_diverge_from_itself(manifest: Manifest) -> None:
    found = compare("tiny", reading(manifest, "float32"), reading(manifest, "float32"), TOKENS)
    assert (found.kl, found.largest_kl, found.top1) == (0.0, 0.0, 1.0)
    assert found.perplexity_float32 == found.perplexity


def test_rounding_shows_but_little(manifest: Manifest) -> None:
    found = compare("tiny", reading(manifest, "float32"), reading(manifest, "int8"), TOKENS)
    assert 0.0 < found.kl < 1e-3
    assert found.top1 > 0.9


@pytest.mark.parametrize("kv_dtype", ["float16", "int16"])
def test_rounded_kv_shows_even_less(manifest: Manifest, kv_dtype: KvDtype) -> None:
    found = compare("tiny", reading(manifest, "float32"), reading(manifest, "float32", kv_dtype), TOKENS)
    assert 0.0 < found.largest_kl < 1e-5
    assert found.kv_dtype == kv_dtype


def test_kv_in_bytes_shows_but_little(manifest: Manifest) -> None:
    found = compare("tiny", reading(manifest, "float32"), reading(manifest, "float32", "int8"), TOKENS)
    assert 1e-9 < found.kl < 1e-4
    assert found.top1 > 0.9


def test_a_different_model_is_noticed(manifest: Manifest) -> None:
    exact = reading(manifest, "float32")
    assert isinstance(exact.model, Decoder)
    norm = replace(exact.model.norm, weight=exact.model.norm.weight * 30)
    other = read(replace(exact.model, norm=norm, fused=None), "float32", "float32", TOKENS, 1)
    assert compare("tiny", exact, other, TOKENS).kl > 0.01


def test_kv_of_another_precision_has_another_name(manifest: Manifest) -> None:
    exact, rounded = load(manifest, "float32").weights_id, load(manifest, "int8").weights_id
    assert exact == manifest.weights_id
    assert rounded != exact
    assert rounded == load(manifest, "int8").weights_id
