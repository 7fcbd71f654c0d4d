"""Every setting, as frozen values. The library's arguments and the CLI's flags are built from these.

cache.py      KV memory
tiers.py      what keeps KV that RAM has no room for
engine.py     the engine, with both
server.py     HTTP, and events about KV
machine.py    what a setting may leave to the machine; sizes as people write them
"""

from __future__ import annotations

from kvloom.config.cache import DEFAULT_KV_DTYPE, DEFAULT_RETENTION, CacheConfig, KvDtype, RetentionName
from kvloom.config.engine import Activations, EngineConfig, GenerationConfig, SchedulerConfig
from kvloom.config.machine import available_memory_bytes, default_threads, parse_bytes, processor
from kvloom.config.server import EventsConfig, LogFormat, ServerConfig
from kvloom.config.tiers import FAULT_NAMES, RemoteConfig, TierConfig, TierFaults, TierName, parse_faults

__all__ = [
    "DEFAULT_KV_DTYPE",
    "DEFAULT_RETENTION",
    "FAULT_NAMES",
    "Activations",
    "CacheConfig",
    "EngineConfig",
    "EventsConfig",
    "GenerationConfig",
    "KvDtype",
    "LogFormat",
    "RemoteConfig",
    "RetentionName",
    "SchedulerConfig",
    "ServerConfig",
    "TierConfig",
    "TierFaults",
    "TierName",
    "available_memory_bytes",
    "default_threads",
    "parse_bytes",
    "parse_faults",
    "processor",
]
