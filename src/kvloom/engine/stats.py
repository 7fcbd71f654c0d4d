"""Counters and gauges of a running engine: plain numbers, read by the CLI, the server's metrics and the tests."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class CacheStats:
    """State of KV memory. Bytes include metadata. held: pages some sequence uses; cached: reusable, droppable pages.

    hits and misses count prompt tokens; misses_by_why counts tokens by ``segment.Why`` value.
    """

    budget_bytes: int
    used_bytes: int
    held_bytes: int
    cached_bytes: int
    metadata_bytes: int
    held_pages: int
    cached_pages: int
    hit_tokens: int
    miss_tokens: int
    evicted_pages: int
    misses_by_why: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EngineStats:
    """State of the scheduler, and totals since the start."""

    running: int
    waiting: int
    steps: int
    prompt_tokens: int
    generated_tokens: int
    computed_tokens: int
    preemptions: int
    finished: dict[str, int]
    cache: CacheStats
