"""Files that are cut short, corrupt or of the wrong kind: always a typed error that names what is wrong."""

from __future__ import annotations

import contextlib
import json
import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kvloom.errors import ModelError, ModelFileError, UnsupportedModel
from kvloom.model.files.convert import Origin, convert
from kvloom.model.files.gguf_file import read_gguf
from kvloom.model.files.kinds import KINDS
from kvloom.model.files.loading import load_model
from kvloom.model.files.safetensors_file import read_safetensors
from tiny_gguf import add_settings, tiny_llama, write_gguf


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("good") / "good.gguf"
    write_gguf(path, tiny_llama(), "llama", "Q8_0")
    return path


@pytest.fixture
def hf(tmp_path: Path, good: Path) -> Path:
    tiny_llama().save_pretrained(tmp_path / "hf", max_shard_size="6KB")
    (tmp_path / "made").mkdir()
    convert(good, tmp_path / "made", Origin("x", "x"))
    (tmp_path / "made" / "tokenizer.json").rename(tmp_path / "hf" / "tokenizer.json")
    return tmp_path / "hf"


def try_convert(model: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir(exist_ok=True)
    load_model(convert(model, tmp_path / "out", Origin("x", "x")), threads=1, activations="float32")


def test_sizes_of_blocks_equal_the_reference() -> None:
    for kind in KINDS.values():
        assert (kind.block_values, kind.block_bytes) == gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind.name]]


def test_head_equals_the_reference_reader(good: Path) -> None:
    ours, theirs = read_gguf(good), gguf.GGUFReader(good)
    assert {t.name: (t.kind, t.shape, t.offset, t.nbytes) for t in ours.tensors} == {
        t.name: (t.tensor_type.name, tuple(int(n) for n in t.shape[::-1]), t.data_offset, int(t.n_bytes))
        for t in theirs.tensors
    }
    for key, value in ours.metadata.items():
        expected = theirs.fields[key].contents()
        assert (value.tolist() if isinstance(value, np.ndarray) else value) == expected, key


class TestGguf:
    @settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
    @given(share=st.floats(0, 0.9999))
    def test_cut_anywhere(self, good: Path, tmp_path: Path, share: float) -> None:
        data = good.read_bytes()
        path = tmp_path / "cut.gguf"
        path.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(ModelFileError, match=r"truncated|cannot read|not a GGUF|corrupt"):
            read_gguf(path)

    @settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
    @given(at=st.integers(0, 4000), value=st.integers(0, 255))
    def test_any_byte_of_the_head_changed(self, good: Path, tmp_path: Path, at: int, value: int) -> None:
        """It loads, or it says why not: no other exception, no crash."""
        data = bytearray(good.read_bytes())
        data[at] = value
        path = tmp_path / "odd.gguf"
        path.write_bytes(data)
        with contextlib.suppress(ModelError):
            try_convert(path, tmp_path)

    def test_something_else(self, tmp_path: Path) -> None:
        path = tmp_path / "x.gguf"
        path.write_bytes(b"PK\x03\x04" + bytes(100))
        with pytest.raises(ModelFileError, match="not a GGUF file"):
            read_gguf(path)
        path.write_bytes(b"")
        with pytest.raises(ModelFileError, match="cannot read"):
            read_gguf(path)
        with pytest.raises(ModelFileError, match="cannot read"):
            read_gguf(tmp_path / "absent.gguf")

    def test_version_and_byte_order(self, tmp_path: Path) -> None:
        path = tmp_path / "x.gguf"
        path.write_bytes(b"GGUF" + struct.pack(">I", 3) + bytes(100))
        with pytest.raises(UnsupportedModel, match="version 50331648"):
            read_gguf(path)

    def test_tensor_type(self, tmp_path: Path) -> None:
        model = tiny_llama(hidden_size=256, intermediate_size=256)
        writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
        add_settings(writer, model.config, "llama", {})
        raw = np.zeros((4, 84), dtype=np.uint8)
        writer.add_tensor("token_embd.weight", raw, raw_dtype=gguf.GGMLQuantizationType.Q2_K)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        with pytest.raises(UnsupportedModel, match=r"`token_embd\.weight` has type Q2_K") as caught:
            read_gguf(tmp_path / "x.gguf")
        assert "Q4_K" in str(caught.value.hint)

    def test_architecture(self, tmp_path: Path) -> None:
        write_gguf(tmp_path / "x.gguf", tiny_llama(), "falcon", "F32")
        with pytest.raises(UnsupportedModel, match="architecture `falcon`") as caught:
            try_convert(tmp_path / "x.gguf", tmp_path)
        assert caught.value.hint == "it runs gemma3, llama, qwen2, qwen3"

    def test_tensors_of_another_family(self, tmp_path: Path) -> None:
        write_gguf(tmp_path / "x.gguf", tiny_llama(), "qwen3", "F32")
        with pytest.raises(
            ModelFileError, match=r"is missing 2 tensors of family qwen3: layers\.0\.k_norm, layers\.0\.q_norm"
        ):
            try_convert(tmp_path / "x.gguf", tmp_path)

    def test_shapes_that_contradict_the_settings(self, tmp_path: Path) -> None:
        model = tiny_llama()
        model.config.intermediate_size = 96
        write_gguf(tmp_path / "x.gguf", model, "llama", "F32")
        with pytest.raises(ModelFileError, match=r"layers\.0\.\w+` has shape .*64.* ask for .*96"):
            try_convert(tmp_path / "x.gguf", tmp_path)

    def test_rope_scaling(self, tmp_path: Path) -> None:
        write_gguf(tmp_path / "x.gguf", tiny_llama(), "llama", "F32", **{"rope.scaling.type": "yarn"})
        with pytest.raises(UnsupportedModel, match="RoPE scaling `yarn`"):
            try_convert(tmp_path / "x.gguf", tmp_path)

    def test_head_size(self, tmp_path: Path) -> None:
        write_gguf(tmp_path / "x.gguf", tiny_llama(num_attention_heads=4), "llama", "F32")
        with pytest.raises(UnsupportedModel, match="heads of 8; kvloom supports multiples of 16"):
            try_convert(tmp_path / "x.gguf", tmp_path)


class TestSafetensors:
    def test_good(self, hf: Path, tmp_path: Path) -> None:
        try_convert(hf, tmp_path)

    def test_missing_shard(self, hf: Path, tmp_path: Path) -> None:
        gone = min(hf.glob("model-*.safetensors"))
        gone.unlink()
        with pytest.raises(ModelFileError, match=f"is missing 1 of . shards: {gone.name}"):
            try_convert(hf, tmp_path)

    def test_cut_short(self, hf: Path, tmp_path: Path) -> None:
        path = max(hf.glob("model-*.safetensors"))
        for keep in (0, 4, 20, path.stat().st_size - 1):
            path.write_bytes(path.read_bytes()[:keep])
            with pytest.raises(ModelFileError, match=r"truncated|corrupt"):
                try_convert(hf, tmp_path)

    @settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
    @given(at=st.integers(0, 700), value=st.integers(0, 255))
    def test_any_byte_of_the_head_changed(self, hf: Path, tmp_path: Path, at: int, value: int) -> None:
        path = min(hf.glob("model-*.safetensors"))
        data = bytearray(path.read_bytes())
        before = data[at]
        data[at] = value
        path.write_bytes(data)
        with contextlib.suppress(ModelError):
            try_convert(hf, tmp_path)
        data[at] = before
        path.write_bytes(data)

    def test_tensor_that_the_index_names_only(self, hf: Path) -> None:
        index = hf / "model.safetensors.index.json"
        table = json.loads(index.read_text())
        table["weight_map"]["model.ghost"] = min(table["weight_map"].values())
        index.write_text(json.dumps(table))
        with pytest.raises(ModelFileError, match=r"names 1 tensors that no shard holds, the first is `model\.ghost`"):
            read_safetensors(hf)

    def test_no_weights_at_all(self, hf: Path, tmp_path: Path) -> None:
        (hf / "model.safetensors.index.json").unlink()
        with pytest.raises(ModelFileError, match="contains neither"):
            try_convert(hf, tmp_path)

    @pytest.mark.parametrize(
        ("change", "error", "reason"),
        [
            ({"model_type": "gpt2"}, UnsupportedModel, "architecture `gpt2`"),
            (
                {"hidden_size": "wide"},
                ModelFileError,
                "`hidden_size` should be a number from 1 to 268435456, not 'wide'",
            ),
            ({"num_attention_heads": 3, "head_dim": 16, "num_key_value_heads": 2}, ModelFileError, "cannot share 2 KV"),
            ({"num_hidden_layers": 2}, ModelFileError, "is missing 9 tensors of family llama"),
            ({"tie_word_embeddings": False}, ModelFileError, r"has no tensor `lm_head\.weight`"),
            ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1.0}}, UnsupportedModel, "scaling `yarn`"),
            ({"quantization_config": {"bits": 4}}, UnsupportedModel, "quantization_config"),
            ({"mlp_bias": True}, UnsupportedModel, "mlp_bias"),
        ],
    )
    def test_settings(
        self, hf: Path, tmp_path: Path, change: dict[str, Any], error: type[Exception], reason: str
    ) -> None:
        config = json.loads((hf / "config.json").read_text())
        (hf / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(error, match=reason):
            try_convert(hf, tmp_path)

    def test_config_that_is_no_json(self, hf: Path, tmp_path: Path) -> None:
        (hf / "config.json").write_text("{")
        with pytest.raises(ModelFileError, match=r"cannot read .*config\.json"):
            try_convert(hf, tmp_path)
        (hf / "config.json").write_text("[]")
        with pytest.raises(ModelFileError, match="should hold a JSON object"):
            try_convert(hf, tmp_path)

    def test_broken_tokenizer_is_told_when_it_is_read(self, hf: Path, tmp_path: Path) -> None:
        from kvloom.model.files.loading import load_tokenizer

        (hf / "tokenizer.json").write_text("{}")
        (tmp_path / "out").mkdir()
        with pytest.raises(ModelFileError, match="cannot read the tokenizer"):
            load_tokenizer(convert(hf, tmp_path / "out", Origin("x", "x")))
