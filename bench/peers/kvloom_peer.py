"""kvloom, through its library face."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import kvloom
from bench.peers.base import Facts, Setup
from kvloom import LLM
from kvloom.bench.engine_target import EngineTarget
from kvloom.bench.target import Answer
from kvloom.config import CacheConfig, SchedulerConfig
from kvloom.engine.layout import KvLayout
from kvloom.model.decoder import kv_map_of
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
    return Kvloom(EngineTarget(llm.engine), facts)


@dataclass(slots=True)
class Kvloom:
    """The engine of an ``LLM``."""

    target: EngineTarget
    facts: Facts

    def reset(self) -> None:
        self.target.reset()

    def run(self, prompts: Sequence[Sequence[int]], num_new: int) -> list[Answer]:
        return self.target.run(prompts, num_new)

    def counters(self) -> dict[str, object]:
        """The engine's own totals since its start."""
        return dataclasses.asdict(self.target.engine.stats())
