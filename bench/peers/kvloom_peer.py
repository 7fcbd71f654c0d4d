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
from kvloom.engine.sampling import NextScores
from kvloom.engine.scheduler.batch import Batch
from kvloom.engine.scheduler.state import Chunk
from kvloom.engine.step import Forward
from kvloom.model.decoder import Decoder, kv_map_of
from kvloom.model.files.store import resolve


def open_peer(setup: Setup) -> Kvloom:
    manifest = resolve(setup.model)
    layout = KvLayout(kv_map_of(manifest.spec), CacheConfig(), SchedulerConfig().step_tokens)
    llm = LLM(setup.model, kv_bytes=layout.bytes_for(setup.kv_tokens), threads=setup.threads)
    cache = llm.engine.config.cache
    facts = Facts(
        version=kvloom.__version__,
        settings=f"weights as in the file, {llm.engine.config.activations} activations, KV in {cache.kv_dtype}, "
        f"prefix reuse on, {llm.engine.config.scheduler.step_tokens} rows per step",
        weight_bytes=manifest.size_bytes,
        kv_token_bytes=int(sum(fmt.token_bytes for fmt in llm.engine.layout.formats)),
    )
    reads = KvReads(llm.engine.forward)
    llm.engine.forward = reads  # type: ignore[assignment]
    return Kvloom(EngineTarget(llm.engine), facts, reads)


@dataclass(slots=True)
class KvReads:
    """Stands before ``Forward`` and adds up the KV bytes that attention reads in steps of nothing but decoding.

    The figures are the kernels' own, from the work plan that they follow.
    """

    forward: Forward
    decode_bytes: int = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.forward, name)

    def next_scores(self, batch: Batch) -> list[tuple[Chunk, NextScores]]:
        model = self.forward.model
        assert isinstance(model, Decoder)
        before = model.kv_bytes_read()
        found = self.forward.next_scores(batch)
        if len(batch.tokens_T) == len(batch.chunks):
            self.decode_bytes += model.kv_bytes_read() - before
        return found


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
