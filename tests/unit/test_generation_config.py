"""What a model's makers recommend: from their files to the parameters of a silent request."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import transformers

from hf_directory import backend, ours, write
from kvloom.config import EngineConfig
from kvloom.engine.build import build
from kvloom.engine.defaults import SamplingDefaults
from kvloom.engine.llm import LLM
from kvloom.engine.params import SamplingParams
from kvloom.errors import ConfigError, ModelFileError
from kvloom.model.files import store
from kvloom.model.files.generation_config import gguf_recommended, hf_recommended
from tiny_gguf import write_gguf


@pytest.mark.parametrize(
    "values",
    [
        {"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.95, "eos_token_id": [1, 2]},
        {"temperature": 1, "repetition_penalty": 1.05, "min_p": 0.1, "top_k": None},
        {"max_new_tokens": 2048, "max_length": 20, "transformers_version": "4.0"},
        {},
    ],
)
def test_equals_what_transformers_reads(tmp_path: Path, values: dict[str, Any]) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps(values))
    reference = transformers.GenerationConfig.from_pretrained(tmp_path)
    names = {"temperature", "top_k", "top_p", "min_p", "repetition_penalty", "max_new_tokens"} & values.keys()
    expected = {name: getattr(reference, name) for name in names if values[name] is not None}
    if "max_new_tokens" in expected:
        expected["max_tokens"] = expected.pop("max_new_tokens")
    assert hf_recommended(values, "x") == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", "hot"),
        ("temperature", float("nan")),
        ("temperature", True),
        ("temperature", -1),
        ("top_p", 3),
        ("top_p", 0),
        ("top_k", 2.5),
        ("top_k", -2),
        ("min_p", [0.1]),
        ("repetition_penalty", 0),
        ("max_new_tokens", 0),
    ],
)
def test_nonsense_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(ModelFileError, match=f"generation_config.json: `{name}` should be"):
        hf_recommended({name: value}, "generation_config.json")


def test_extremes_that_pass_are_parameters() -> None:
    for values in (
        {"temperature": 0, "top_k": -1, "top_p": 1, "min_p": 0, "max_new_tokens": 1},
        {"temperature": 100, "top_k": 10**9, "min_p": 1.0, "repetition_penalty": 100},
    ):
        SamplingDefaults(hf_recommended(values, "x")).params()


def test_a_directory_brings_its_own(tmp_path: Path) -> None:
    directory = write(tmp_path / "model", backend(), generation_config={"temperature": 0.6, "eos_token_id": 3})
    assert ours(directory)._rules.sampling == {"temperature": 0.6}


def test_gguf() -> None:
    keys = {"temp": 0.5, "top_k": 20, "penalty_repeat": 1.25, "mirostat": 2, "sequence": "top_k"}
    metadata = {f"general.sampling.{name}": value for name, value in keys.items()}
    assert gguf_recommended(metadata, "x") == {"temperature": 0.5, "top_k": 20, "repetition_penalty": 1.25}
    metadata["general.sampling.penalty_last_n"] = 0
    assert gguf_recommended(metadata, "x") == {"temperature": 0.5, "top_k": 20}
    with pytest.raises(ModelFileError, match=r"sampling.top_p` should be a number above 0 and at most 1, not 3\.0"):
        gguf_recommended({"general.sampling.top_p": 3.0}, "x")


def test_who_wins() -> None:
    defaults = SamplingDefaults({"temperature": 0.6, "top_k": 20})
    params = defaults.params({"top_k": 5}, otherwise={"temperature": 0.0, "max_tokens": 256})
    assert params == SamplingParams(temperature=0.6, top_k=5, max_tokens=256)
    assert SamplingDefaults().params() == SamplingParams()


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("KVLOOM_HOME", str(tmp_path / "home"))
    config = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        max_position_embeddings=64,
        tie_word_embeddings=True,
    )
    hf = transformers.LlamaForCausalLM(config)
    write_gguf(tmp_path / "tiny.gguf", hf, "llama", "Q8_0")
    tokenizer = store.register(tmp_path / "tiny.gguf").tokenizer_path.read_text()
    hf.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "tokenizer.json").write_text(tokenizer)
    (tmp_path / "model" / "generation_config.json").write_text('{"temperature": 0.0, "top_k": 7, "max_new_tokens": 3}')
    return str(tmp_path / "model")


def test_the_library_heeds_them_unless_told_not_to(model: str) -> None:
    llm = LLM(model, kv_bytes="8MiB", threads=1)
    assert llm.get_default_sampling_params() == SamplingParams(temperature=0.0, top_k=7, max_tokens=3)
    silent, asked = (
        llm.generate({"prompt_token_ids": [5, 6]}, params)[0].outputs[0].token_ids
        for params in (None, SamplingParams(temperature=0.0, max_tokens=3))
    )
    assert silent == asked
    assert len(silent) <= 3
    plain = build(EngineConfig(model=model, generation_config="none", threads=1)).defaults
    assert plain.params() == SamplingParams()


def test_unknown_setting() -> None:
    with pytest.raises(ConfigError, match="unknown generation_config `vllm`"):
        EngineConfig(model="x", generation_config="vllm")  # type: ignore[arg-type]
