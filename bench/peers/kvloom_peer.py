"""kvloom, through its library face."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import kvloom
from bench.peers.base import Facts, Setup
from kvloom import LLM
from kvloom.bench.engine_target import EngineTarget
from kvloom.bench.target import Answer
from kvloom.config import CacheConfig, SchedulerConfig
from kvloom.engine.layout import KvLayout
from kvloom.engine.scheduler.batch import Batch
from kvloom.engine.step import Forward
from kvloom.model.decoder import kv_map_of
from kvloom.model.kv_map import KvMap
from kvloom.model.store import resolve


def open_peer(setup: Setup) -> Kvloom:
    manifest = resolve(setup.model)
    layout = KvLayout(kv_map_of(manifest.spec), CacheConfig(), SchedulerConfig().step_tokens)
    llm = LLM(setup.model, kv_bytes=layout.bytes_for(setup.kv_tokens), threads=setup.threads)
    cache = llm.engine.config.cache
    facts = Facts(
        version=kvloom.__version__,
        settings=f"weights as in the file, KV in {cache.kv_dtype}, prefix reuse on, "
        f"{llm.engine.config.scheduler.step_tokens} rows per step",
        weight_bytes=manifest.size_bytes,
        kv_token_bytes=int(sum(fmt.token_bytes for fmt in llm.engine.layout.formats)),
    )
    reads = KvReads(llm.engine.forward, llm.engine.layout.kv_map, manifest.spec.heads)
    llm.engine.forward = reads  # type: ignore[assignment]
    return Kvloom(EngineTarget(llm.engine), facts, reads)


@dataclass(slots=True)
class KvReads:
    """Stands before ``Forward`` and adds up the KV bytes that attention reads in steps of nothing but decoding.

    The count is that of the schedule which the kernels follow, for one layer of every group, times its layers.
    """

    forward: Forward
    kv_map: KvMap
    heads: int
    decode_bytes: int = 0
    last: Batch | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.forward, name)

    def hidden(self, batch: Batch) -> Any:
        self._count(batch)
        return self.forward.hidden(batch)

    def next_scores(self, batch: Batch, *rest: Any) -> Any:
        self._count(batch)
        return self.forward.next_scores(batch, *rest)

    def _count(self, batch: Batch) -> None:
        """Once per batch, whichever is called first."""
        if batch is self.last:
            return
        self.last = batch
        count = getattr(self.forward.attend, "kv_bytes", None)
        if count is not None and len(batch.tokens_T) == len(batch.chunks):
            for group in self.kv_map.groups:
                self.decode_bytes += len(group.layers) * count(batch.plan, group.layers[0], self.heads)


@dataclass(slots=True)
class Kvloom:
    """The engine of an ``LLM``."""

    target: EngineTarget
    facts: Facts
    reads: KvReads

    def reset(self) -> None:
        self.target.reset()

    def run(self, prompts: Sequence[Sequence[int]], num_new: int) -> list[Answer]:
        return self.target.run(prompts, num_new)

    def counters(self) -> dict[str, object]:
        """The engine's own totals since its start."""
        return dataclasses.asdict(self.target.engine.stats()) | {"decode_kv_read_bytes": self.reads.decode_bytes}
