"""Settings of KV memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from kvloom.config.machine import parse_bytes
from kvloom.errors import ConfigError

KvDtype = Literal["float32", "float16", "bfloat16", "int16", "int8"]
RetentionName = Literal[
    "lru", "lfu", "fifo", "pgdsf", "max_score", "pensieve", "tail_lru", "pause", "ttl", "asymcache", "survival"
]

DEFAULT_RETENTION: RetentionName = "survival"
"""What serves best over the traces that policies are compared on (``bench.policies``)."""

DEFAULT_KV_DTYPE: KvDtype = "int16"


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheConfig:
    """The main setting is ``kv_bytes``: a hard limit on the data and metadata of all KV.

    ``"auto"`` takes eight full contexts of the model, but at most a quarter of the free memory. ``retention``: which
    reusable pages are evicted first; by default those that pay least for being kept. See ``policy.retention``.
    ``max_pinned_share``: part of ``kv_bytes`` that requests may pin (``CacheParams.pin_s``). ``session_share``: part
    that sessions which come again do not lose to other requests (``policy.retention.session_share``). ``chunk_share``:
    part that chunks, passages computed alone, do not lose to the KV of texts, nor texts the rest to chunks; what one
    side leaves unused the other has. ``bands``: contiguous ranges of layers whose KV lies in pages of its own; with
    more than one and a tier, a prompt may begin when there is room for one of them. Every page has metadata, so many
    bands take room.
    """

    kv_bytes: int | str = "auto"
    kv_dtype: KvDtype = DEFAULT_KV_DTYPE
    slab_bytes: int = 2 * 2**20
    retention: RetentionName = DEFAULT_RETENTION
    max_pinned_share: float = 0.25
    session_share: float = 0.75
    bands: int = 1
    chunk_share: float = 0.5

    def __post_init__(self) -> None:
        if self.kv_bytes != "auto":
            parse_bytes(self.kv_bytes)
        if self.kv_dtype not in get_args(KvDtype):
            raise ConfigError(f"unknown kv_dtype `{self.kv_dtype}`", hint=f"one of {', '.join(get_args(KvDtype))}")
        if self.retention not in get_args(RetentionName):
            raise ConfigError(
                f"unknown retention `{self.retention}`", hint=f"one of {', '.join(get_args(RetentionName))}"
            )
        if not 0 <= self.max_pinned_share <= 1:
            raise ConfigError(f"max_pinned_share must be from 0 to 1, got {self.max_pinned_share}")
        if not 0 <= self.session_share <= 1:
            raise ConfigError(f"session_share must be from 0 to 1, got {self.session_share}")
        if self.bands < 1:
            raise ConfigError(f"bands must be at least 1, got {self.bands}")
        if not 0 <= self.chunk_share <= 1:
            raise ConfigError(f"chunk_share must be from 0 to 1, got {self.chunk_share}")
        if self.slab_bytes < 64 * 2**10 or self.slab_bytes % 4096:
            raise ConfigError(f"slab_bytes must be a multiple of 4096, at least 65536, got {self.slab_bytes}")
