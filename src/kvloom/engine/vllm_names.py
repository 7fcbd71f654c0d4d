"""vLLM's arguments of ``LLM``: those with another name here, those without effect, and those that are refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar

from kvloom.config import CacheConfig, EngineConfig, SchedulerConfig
from kvloom.errors import ConfigError

Part = TypeVar("Part", CacheConfig, SchedulerConfig)

RENAMED: Mapping[str, str] = {
    "max_num_seqs": "max_seqs",
    "max_num_batched_tokens": "step_tokens",
    "kv_cache_memory_bytes": "kv_bytes",
}
"""Settings that both engines have."""

HOLDS: Mapping[str, tuple[object, ...]] = {
    "tensor_parallel_size": (1,),
    "pipeline_parallel_size": (1,),
    "enable_prefix_caching": (True,),
    "enable_chunked_prefill": (True,),
    "trust_remote_code": (False, True),
    "enforce_eager": (False, True),
    "disable_log_stats": (False, True),
    "dtype": ("auto",),
    "load_format": ("auto",),
}
"""Values without effect: they describe the existing behaviour, or there is nothing to turn on or off."""

NOT_HERE: Mapping[str, str] = {
    "gpu_memory_utilization": 'kvloom runs on the CPU: set the memory limit for KV, such as kv_bytes="2GiB"',
    "cpu_offload_gb": "all weights are already in CPU memory",
    "swap_space": 'KV of running requests is never swapped; for what was evicted, tiers=TierConfig(warm_bytes="4GiB")',
    "kv_cache_dtype": "use kv_dtype to set the number format of stored KV",
    "block_size": "the page size is fixed at 16 tokens",
    "quantization": "weights run in the format of their file: choose another file of the model",
    "tokenizer": "the tokenizer comes with the model",
    "speculative_config": "speculative decoding is not supported",
    "enable_lora": "LoRA is not supported",
}
"""Arguments that are refused, and what to do instead."""


def with_vllm_names(config: EngineConfig, given: Mapping[str, Any]) -> EngineConfig:
    """``config`` with vLLM's arguments applied.

    Raises ConfigError for unsupported or duplicate settings, and TypeError for names that neither engine knows.
    """
    ours = _in_our_words(given)
    return replace(config, cache=_changed(config.cache, ours), scheduler=_changed(config.scheduler, ours))


def _changed(part: Part, ours: Mapping[str, Any]) -> Part:
    own = [field for field in fields(part) if field.name in ours]
    for field in own:
        if getattr(part, field.name) != field.default:
            theirs = next(name for name, our_name in RENAMED.items() if our_name == field.name)
            raise ConfigError(f"`{field.name}` and `{theirs}` are the same setting", hint="set only one of them")
    return replace(part, **{field.name: ours[field.name] for field in own})


def _in_our_words(given: Mapping[str, Any]) -> dict[str, Any]:
    """Our settings among vLLM's arguments, by our names. None is vLLM's way to leave a setting alone."""
    ours = {}
    for name, value in given.items():
        if name not in RENAMED and name not in HOLDS and name not in NOT_HERE:
            raise TypeError(f"LLM() has no argument `{name}`")
        if value is None:
            continue
        if name in NOT_HERE:
            raise ConfigError(f"`{name}` is an argument of vLLM that kvloom does not support", hint=NOT_HERE[name])
        if name in RENAMED:
            ours[RENAMED[name]] = value
        elif value not in HOLDS[name]:
            raise ConfigError(f"`{name}` can only be {' or '.join(map(repr, HOLDS[name]))} here, got {value!r}")
    return ours
