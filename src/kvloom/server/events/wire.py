"""The form of events on the wire: vLLM's (``vllm/distributed/kv_events.py``), in MessagePack.

A batch is an array, an event a map with its ``type``. Names and meanings are vLLM's:

block_hashes      the low 64 bits of each page's key
parent_block_hash of the page before the first; None at the beginning of a text
medium            ``GPU`` is vLLM's name for the memory in which KV is used: here that is RAM
extra_keys        what else went into a hash: of the first page of a text with a salt, a name of the salt
group_idx         which layer group, if there are several: each stores its own pages under the same hash
"""

from __future__ import annotations

import msgspec

MEDIUM = "GPU"


class Event(msgspec.Struct, omit_defaults=True, gc=False, tag=True):
    """What happened to stored KV."""


class BlockStored(Event):
    """Pages that follow one another; each has ``block_size`` of ``token_ids``."""

    block_hashes: list[int]
    parent_block_hash: int | None
    token_ids: list[int]
    block_size: int
    lora_id: int | None = msgspec.field(default_factory=lambda: None)  # always written: vLLM requires it
    medium: str | None = msgspec.field(default_factory=lambda: MEDIUM)
    lora_name: str | None = msgspec.field(default_factory=lambda: None)
    extra_keys: list[tuple[str, ...] | None] | None = None
    group_idx: int | None = None
    kv_cache_spec_kind: str | None = None
    kv_cache_spec_sliding_window: int | None = None


class BlockRemoved(Event):
    block_hashes: list[int]
    medium: str | None = msgspec.field(default_factory=lambda: MEDIUM)
    group_idx: int | None = None


class AllBlocksCleared(Event):
    """Nothing is stored any more."""


class Batch(msgspec.Struct, array_like=True, omit_defaults=True, gc=False):
    """``ts``: seconds since 1970. ``publisher_id``: of a publisher that answers requests for snapshots."""

    ts: float
    events: list[BlockStored | BlockRemoved | AllBlocksCleared]
    data_parallel_rank: int | None = None
    publisher_id: bytes | None = None
