"""vLLM's arguments of ``LLM``, in our words: which are ours under another name, which hold anyway, which cannot be."""

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
"""Settings that both have."""

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
"""The values that change nothing here: that is how it works, or there is nothing to turn on or off."""

NOT_HERE: Mapping[str, str] = {
    "gpu_memory_utilization": 'kvloom runs on the CPU: say how much memory KV may take, such as kv_bytes="2GiB"',
    "cpu_offload_gb": "all weights are in memory already",
    "swap_space": "KV is dropped and computed again, never swapped: kv_bytes is its one limit",
    "kv_cache_dtype": "the number format of stored KV is kv_dtype",
    "block_size": "a page of KV has 16 tokens",
    "quantization": "weights are run in the format of their file: take another file of the model",
    "tokenizer": "the tokenizer comes with the model",
    "speculative_config": "there is no speculative decoding yet",
    "enable_lora": "there is no LoRA",
}
"""Arguments that ask for what we do not have, and what to do instead."""


def with_vllm_names(config: EngineConfig, given: Mapping[str, Any]) -> EngineConfig:
    """``config`` with what vLLM's arguments say. Raises ConfigError for what cannot be had or is said twice.

    TypeError for names that neither of us knows.
    """
    ours = _in_our_words(given)
    return replace(config, cache=_changed(config.cache, ours), scheduler=_changed(config.scheduler, ours))


def _changed(part: Part, ours: Mapping[str, Any]) -> Part:
    own = [field for field in fields(part) if field.name in ours]
    for field in own:
        if getattr(part, field.name) != field.default:
            theirs = next(name for name, our_name in RENAMED.items() if our_name == field.name)
            raise ConfigError(f"`{field.name}` and `{theirs}` are one setting", hint="give one of them")
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
            raise ConfigError(f"`{name}` is an argument of vLLM that kvloom does not have", hint=NOT_HERE[name])
        if name in RENAMED:
            ours[RENAMED[name]] = value
        elif value not in HOLDS[name]:
            raise ConfigError(f"`{name}` can only be {' or '.join(map(repr, HOLDS[name]))} here, got {value!r}")
    return ours
