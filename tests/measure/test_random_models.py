"""Models with random weights: the format is right, the values have the size asked for, and they run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest

import bench.random_models as random_models
from bench.full_cache import full_logits
from bench.random_blocks import random_blocks
from bench.random_shapes import QUANTIZATIONS, SHAPES, Shape, tensors
from kvloom.model.files.convert import Origin, convert
from kvloom.model.files.loading import load_model
from kvloom.model.weight import Weight
from tiny_gguf import SMALL, tiny_llama, write_gguf

TINY = Shape("llama", 256, 3, 4, 2, 64, 512, 96, 128, 1e4)
ARCHS = {
    "llama": TINY,
    "qwen2": replace(TINY, arch="qwen2", tied=False),
    "gemma3": replace(TINY, arch="gemma3", layers=7, window=16),
}
TOKENS = np.random.default_rng(1).integers(0, 96, 48).tolist()


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file whose vocabulary of 40 tokens is to be filled up."""
    path = tmp_path_factory.mktemp("tokenizer") / "tiny.gguf"
    write_gguf(path, tiny_llama(), "llama", "F32")
    return path


@pytest.mark.parametrize("kind", ["Q4_0", "Q8_0", "Q4_K", "Q6_K"])
def test_blocks_have_the_size_asked_for_and_one_meaning(kind: str) -> None:
    raw = random_blocks(kind, 2048, 0.02, np.random.default_rng(3))
    qtype = gguf.GGMLQuantizationType[kind]
    block, size = gguf.GGML_QUANT_SIZES[qtype]
    assert raw.shape == (2048, size)
    theirs = gguf.quants.dequantize(raw.reshape(64, -1), qtype)
    assert theirs.std() == pytest.approx(0.02, rel=0.03)
    assert abs(theirs.mean()) < 0.02 * 5 / np.sqrt(theirs.size / 16)
    ours = Weight.pack(raw, kind, (64, 32 * block)).dequantize()
    np.testing.assert_array_equal(ours, theirs.astype(np.float32))


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
@pytest.mark.parametrize("arch", ARCHS)
def test_a_file_runs_with_logits_of_ordinary_size(
    arch: str, quantization: str, tokenizer: Path, tmp_path: Path
) -> None:
    path, target = tmp_path / "random.gguf", tmp_path / "ours"
    random_models.write_random(path, ARCHS[arch], quantization, tokenizer)
    target.mkdir()
    manifest = convert(path, target, Origin("random", "test"))
    assert manifest.spec.vocab_size == 96
    logits = full_logits(load_model(manifest, threads=2, activations="int8"), TOKENS, [len(TOKENS)]).numpy()
    assert np.isfinite(logits).all()
    assert 0.5 < logits.std() < 8
    assert len({int(row.argmax()) for row in logits}) > len(TOKENS) // 4, "all positions say the same"


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_the_reference_library_reads_what_was_planned(quantization: str, tokenizer: Path, tmp_path: Path) -> None:
    path = tmp_path / "random.gguf"
    random_models.write_random(path, TINY, quantization, tokenizer)
    reader = gguf.GGUFReader(path)
    plans = list(tensors(TINY, quantization))
    assert [tensor.name for tensor in reader.tensors] == [plan.name for plan in plans]
    for tensor, plan in zip(reader.tensors, plans, strict=True):
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        assert values.shape == plan.shape
        assert tensor.tensor_type.name == plan.kind
        if values.ndim == 2:
            assert values.std() == pytest.approx(plan.std, rel=0.1)
    tokens = reader.fields["tokenizer.ggml.tokens"].contents()
    assert (len(tokens), tokens[:40]) == (96, [f"t{index}" for index in range(SMALL["vocab_size"])])


def test_a_name_always_gives_the_same_bytes(tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random_models.write_random(tmp_path / "one.gguf", TINY, "Q4_K_M", tokenizer)
    monkeypatch.setattr(random_models, "_PIECE_BYTES", 5000)
    random_models.write_random(tmp_path / "two.gguf", TINY, "Q4_K_M", tokenizer)
    assert not list(tmp_path.glob("*.partial"))
    one, two = ((tmp_path / name).stat().st_size for name in ("one.gguf", "two.gguf"))
    assert one == two, "the size of a piece moves no tensor"
    random_models.write_random(tmp_path / "three.gguf", TINY, "Q4_K_M", tokenizer)
    assert (tmp_path / "two.gguf").read_bytes() == (tmp_path / "three.gguf").read_bytes()


def test_a_vocabulary_that_is_too_small_is_refused(tokenizer: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="40 tokens for a vocabulary of 32"):
        random_models.write_random(tmp_path / "x.gguf", replace(TINY, vocab_size=32), "Q8_0", tokenizer)


@pytest.mark.parametrize(
    ("name", "gigabytes"),
    [
        ("llama-3.2-1b", 0.81),
        ("llama-3.2-3b", 2.02),
        ("llama-3.1-8b", 4.92),
        ("qwen2.5-1.5b", 0.99),
        ("qwen2.5-7b", 4.68),
        ("gemma-3-4b", 2.49),
    ],
)
def test_files_are_as_large_as_the_published_ones(name: str, gigabytes: float) -> None:
    """Of Q4_K_M, as model pages state them."""
    planned = sum(random_models.planned_bytes(plan) for plan in tensors(SHAPES[name], "Q4_K_M"))
    assert planned / 1e9 == pytest.approx(gigabytes, rel=0.03)
