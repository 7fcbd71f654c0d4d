"""What vLLM's arguments of LLM mean here: by one name inside, or explained."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest

from kvloom.config import CacheConfig, EngineConfig, SchedulerConfig
from kvloom.engine import llm as llm_module
from kvloom.engine.defaults import SamplingDefaults
from kvloom.engine.llm import LLM
from kvloom.engine.vllm_names import HOLDS, NOT_HERE, RENAMED
from kvloom.errors import ConfigError


@pytest.fixture
def configs(monkeypatch: pytest.MonkeyPatch) -> list[EngineConfig]:
    """What LLM would build."""
    seen: list[EngineConfig] = []

    def build(config: EngineConfig) -> SimpleNamespace:
        seen.append(config)
        return SimpleNamespace(tokenizer=None, defaults=SamplingDefaults(), engine=None)

    monkeypatch.setattr(llm_module, "build", build)
    return seen


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ({"max_num_seqs": 8}, {"max_seqs": 8}),
        ({"max_num_batched_tokens": 128}, {"step_tokens": 128}),
        ({"kv_cache_memory_bytes": 2**28}, {"kv_bytes": 2**28}),
        ({"max_num_seqs": None, "gpu_memory_utilization": None}, {}),
        ({name: values[0] for name, values in HOLDS.items()}, {}),
    ],
    ids=str,
)
def test_one_setting_by_two_names(theirs: dict[str, Any], ours: dict[str, Any], configs: list[EngineConfig]) -> None:
    LLM("tiny", **theirs)
    LLM("tiny", **ours)
    assert configs[0] == configs[1]
    if ours:
        assert configs[0] != EngineConfig(model="tiny")


@pytest.mark.parametrize("name", NOT_HERE)
def test_what_is_not_here_is_explained(name: str, configs: list[EngineConfig]) -> None:
    with pytest.raises(ConfigError, match=f"`{name}` is an argument of vLLM") as caught:
        LLM("tiny", **{name: 0.9})
    assert caught.value.hint == NOT_HERE[name]
    assert not configs


def test_a_gpu_is_answered_with_the_setting_to_use(configs: list[EngineConfig]) -> None:
    with pytest.raises(ConfigError) as caught:
        LLM("tiny", gpu_memory_utilization=0.9)
    assert "kv_bytes" in str(caught.value.hint)


def test_values_that_would_change_something_are_refused(configs: list[EngineConfig]) -> None:
    with pytest.raises(ConfigError, match="`tensor_parallel_size` can only be 1 here, got 2"):
        LLM("tiny", tensor_parallel_size=2)
    with pytest.raises(ConfigError, match="`enable_prefix_caching` can only be True here, got False"):
        LLM("tiny", enable_prefix_caching=False)


def test_a_setting_is_given_once(configs: list[EngineConfig]) -> None:
    with pytest.raises(ConfigError, match="`max_seqs` and `max_num_seqs` are the same setting"):
        LLM("tiny", max_seqs=3, max_num_seqs=4)


def test_our_bounds_hold_for_their_names(configs: list[EngineConfig]) -> None:
    with pytest.raises(ConfigError, match="max_seqs must be at least 1"):
        LLM("tiny", max_num_seqs=0)


def test_nobody_knows_other_names(configs: list[EngineConfig]) -> None:
    with pytest.raises(TypeError, match="`max_sequences`"):
        LLM("tiny", max_sequences=3)


def test_every_name_stands_for_a_setting() -> None:
    settings = {field.name for part in (CacheConfig, SchedulerConfig) for field in dataclasses.fields(part)}
    assert set(RENAMED.values()) <= settings
    assert not set(RENAMED) & settings
