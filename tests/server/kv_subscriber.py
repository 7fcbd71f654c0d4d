"""A subscriber as vLLM's documentation has it: its schema, its sockets, and the blocks that it takes for stored."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import zmq

BlockHash = bytes | int


class EventBatch(msgspec.Struct, array_like=True, omit_defaults=True, gc=False):
    ts: float
    events: list[Any]
    data_parallel_rank: int | None = None
    publisher_id: bytes | None = None


class KVCacheEvent(msgspec.Struct, omit_defaults=True, gc=False, tag=True):
    pass


class BlockStored(KVCacheEvent):
    block_hashes: list[BlockHash]
    parent_block_hash: BlockHash | None
    token_ids: list[int]
    block_size: int
    lora_id: int | None
    medium: str | None
    lora_name: str | None
    extra_keys: list[tuple[Any, ...] | None] | None = None
    group_idx: int | None = None
    kv_cache_spec_kind: str | None = None
    kv_cache_spec_sliding_window: int | None = None


class BlockRemoved(KVCacheEvent):
    block_hashes: list[BlockHash]
    medium: str | None
    group_idx: int | None = None


class AllBlocksCleared(KVCacheEvent):
    pass


class KVEventBatch(EventBatch):
    events: list[BlockStored | BlockRemoved | AllBlocksCleared]


DECODE = msgspec.msgpack.Decoder(type=KVEventBatch).decode

Blocks = dict[tuple[int | None, BlockHash], tuple[int, ...]]
"""Tokens of each block that is stored, by layer group and hash."""


def apply(blocks: Blocks, batch: KVEventBatch) -> None:
    for event in batch.events:
        if isinstance(event, AllBlocksCleared):
            blocks.clear()
        elif isinstance(event, BlockRemoved):
            for name in event.block_hashes:
                blocks.pop((event.group_idx, name), None)
        else:
            assert len(event.token_ids) == event.block_size * len(event.block_hashes)
            assert event.medium == "GPU"
            for index, name in enumerate(event.block_hashes):
                start = index * event.block_size
                blocks[event.group_idx, name] = tuple(event.token_ids[start : start + event.block_size])


class Subscriber:
    """``blocks``: what it takes for stored after all it has received. ``last``: number of the last batch."""

    def __init__(self, endpoint: str, topic: str = "") -> None:
        self.context = zmq.Context()
        self.sub = self.context.socket(zmq.SUB)
        self.sub.setsockopt_string(zmq.SUBSCRIBE, topic)
        self.sub.connect(endpoint)
        self.blocks: Blocks = {}
        self.batches: list[KVEventBatch] = []
        self.last = -1

    def read(self, seconds: float = 0.2) -> None:
        """All that comes until nothing has come for so long."""
        while self.sub.poll(int(seconds * 1000)):
            _, number, payload = self.sub.recv_multipart()
            self.take(int.from_bytes(number, "big"), payload)

    def take(self, number: int, payload: bytes) -> None:
        assert self.last in (-1, number - 1), f"after {self.last} came {number}"
        self.last = number
        self.batches.append(DECODE(payload))
        apply(self.blocks, self.batches[-1])

    def replay(self, endpoint: str, first: int) -> None:
        """Take all batches from ``first`` on that are kept."""
        with self.context.socket(zmq.DEALER) as asking:
            asking.connect(endpoint)
            asking.send_multipart((b"", first.to_bytes(8, "big")))
            while asking.poll(2000):
                _, number, payload = asking.recv_multipart()
                if not payload:
                    assert int.from_bytes(number, "big", signed=True) == -1
                    return
                self.take(int.from_bytes(number, "big"), payload)
        raise AssertionError("the replay has no end")

    def snapshot(self, endpoint: str) -> bytes:
        """Start from a snapshot, and what came meanwhile. Returns the publisher's id."""
        deadline, early = time.monotonic() + 5, []
        while not early:
            assert time.monotonic() < deadline, "no sign of life"
            if self.sub.poll(100):
                early.append(self.sub.recv_multipart())
        with self.context.socket(zmq.REQ) as asking:
            asking.connect(endpoint)
            asking.send(b"snapshot")
            assert asking.poll(5000)
            number, publisher, *parts = asking.recv_multipart()
        self.blocks = {}
        for part in parts:
            apply(self.blocks, DECODE(part))
        self.last = int.from_bytes(number, "big", signed=True)
        for _, came, payload in early:
            if int.from_bytes(came, "big") > self.last:
                self.take(int.from_bytes(came, "big"), payload)
        return publisher

    def close(self) -> None:
        self.context.destroy(linger=0)
