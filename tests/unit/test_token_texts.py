"""Every id that a model can say has a text: a head may be wider than the vocabulary, and two ids may share a text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import transformers

from kvloom.engine.llm import LLM
from kvloom.engine.params import SamplingParams
from kvloom.errors import RequestError
from kvloom.model.files.convert import Origin, convert
from kvloom.model.files.gguf_tokenizer import gguf_text_rules, gguf_tokenizer_json
from kvloom.model.files.loading import load_tokenizer
from kvloom.model.files.manifest import read_manifest
from kvloom.model.text.tokenizer import Tokenizer
from tiny_gguf import add_settings, write_gguf

BYTES = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())


def byte_level() -> dict[str, Any]:
    tokens = ["<s>", "</s>", *BYTES, "he", "he", "<s>"]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3, 3, *[1] * 256, 1, 1, 3],
        "tokenizer.ggml.merges": ["h e"],
    }


def sentence_piece() -> dict[str, Any]:
    tokens = ["<unk>", "<s>", "</s>", "  ", *(f"<0x{byte:02X}>" for byte in range(256)), "▁▁", "he", "h", "e", "he"]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [2, 3, 3, 4, *[6] * 256, *[1] * 5],
        "tokenizer.ggml.scores": np.zeros(len(tokens)),
        "tokenizer.ggml.unknown_token_id": 0,
    }


def make(metadata: dict[str, Any], num_ids: int) -> tuple[Tokenizer, tokenizers.Tokenizer]:
    backend = tokenizers.Tokenizer.from_str(gguf_tokenizer_json(metadata, "test.gguf"))
    return Tokenizer(backend, gguf_text_rules(metadata, "test.gguf"), "test", num_ids), backend


@pytest.mark.parametrize("metadata", [byte_level(), sentence_piece()], ids=["byte-level", "sentencepiece"])
def test_ids_beyond_the_vocabulary_are_empty(metadata: dict[str, Any]) -> None:
    size = len(metadata["tokenizer.ggml.tokens"])
    tokenizer, backend = make(metadata, size + 10)
    for token in range(size, size + 10):
        assert tokenizer.token_bytes(token) == b""
        assert tokenizer.token_text(token) == backend.decode([token]) == ""
    he = tokenizer.encode("he", add_special_tokens=False)
    assert tokenizer.decode([size + 1, *he, size, *he]) == backend.decode([size + 1, *he, size, *he])
    for token in (-1, size + 10, 2**40):
        with pytest.raises(RequestError, match=f"vocabulary of {size + 10}"):
            tokenizer.token_text(token)


@pytest.mark.parametrize(
    ("metadata", "texts"),
    [
        (byte_level(), {258: "he", 259: "he", 0: "<s>", 260: "<s>"}),
        (sentence_piece(), {3: "  ", 260: "  ", 261: "he", 264: "he"}),
    ],
    ids=["byte-level", "sentencepiece"],
)
def test_two_ids_of_one_text_both_have_it(metadata: dict[str, Any], texts: dict[int, str]) -> None:
    tokenizer, _ = make(metadata, 0)
    assert {token: tokenizer.token_text(token) for token in texts} == texts
    for token in range(len(metadata["tokenizer.ggml.tokens"])):
        tokenizer.token_bytes(token)


def test_the_twin_of_a_special_token_is_skipped_too() -> None:
    tokenizer, _ = make(byte_level(), 0)
    assert tokenizer.decode([0, 258, 260, 259]) == "hehe"
    assert tokenizer.decode([0, 258, 260], skip_special_tokens=False) == "<s>he<s>"


@pytest.fixture
def wide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A GGUF with a head of 64 rows; its vocabulary has 60 entries, of which two are spelled alike."""
    config = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=128,
    )
    monkeypatch.setattr("tiny_gguf.add_settings", _shorter(add_settings))
    write_gguf(tmp_path / "wide.gguf", transformers.LlamaForCausalLM(config), "llama", "F32")
    monkeypatch.setenv("KVLOOM_HOME", str(tmp_path / "home"))
    return tmp_path / "wide.gguf"


def _shorter(working):
    def add(writer, *args) -> None:
        add_list, add_types = writer.add_token_list, writer.add_token_types
        writer.add_token_list = lambda tokens: add_list([*tokens[:59], tokens[7]])
        writer.add_token_types = lambda types: add_types(types[:60])
        working(writer, *args)

    return add


def test_a_wide_head_through_a_file(wide: Path, tmp_path: Path) -> None:
    convert(wide, tmp_path, Origin("wide", "a test"))
    manifest = read_manifest(tmp_path)
    assert manifest.text.twins == ((7, 59),)
    tokenizer = load_tokenizer(manifest)
    texts = [tokenizer.token_text(token) for token in range(64)]
    assert texts == [*(f"t{n}" for n in range(59)), "t7", "", "", "", ""]


@pytest.mark.parametrize("token", [7, 59, 60, 63])
def test_any_id_can_be_said_and_scored(wide: Path, token: int) -> None:
    llm = LLM(str(wide), kv_bytes="16MiB")
    sure = SamplingParams(temperature=0.0, max_tokens=3, logit_bias={token: 100.0}, logprobs=64, prompt_logprobs=64)
    said, plain = llm.generate([[2, token, 63, 3], [2, 3]], [sure, SamplingParams(temperature=0.0, max_tokens=3)])
    assert said.outputs[0].token_ids == [token] * 3
    assert said.outputs[0].text == ("t7" * 3 if token < 60 else "")
    assert len(said.outputs[0].logprobs[0]) == 64
    assert plain.error is None
