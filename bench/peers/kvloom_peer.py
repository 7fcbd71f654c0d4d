"""kvloom, through its library face."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import kvloom
from bench.peers.base import Stream
from kvloom import LLM, SamplingParams
from kvloom.model.store import resolve

KV_BYTES = "768MiB"


def open_peer(model: str, weights: Path, threads: int) -> Kvloom:
    return Kvloom(LLM(model, kv_bytes=KV_BYTES, threads=threads), resolve(model).size_bytes)


@dataclass(slots=True)
class Kvloom:
    """Weights as in the file, KV in float16."""

    llm: LLM
    weight_bytes: int
    version: str = kvloom.__version__

    @property
    def kv_token_bytes(self) -> int:
        return int(sum(fmt.token_bytes for fmt in self.llm.engine.layout.formats))

    def one(self, prompt: list[int], num_new: int) -> Stream:
        self.llm.cache.reset()
        output = self.llm.generate({"prompt_token_ids": prompt}, _greedy(num_new))[0]
        assert output.metrics.cached_tokens == 0
        return Stream(list(output.metrics.token_times_s))

    def batch(self, prompts: list[list[int]], num_new: int) -> float:
        self.llm.cache.reset()
        return self._timed(prompts, num_new)

    def shared(self, prefix: list[int], tails: list[list[int]], num_new: int) -> float:
        self.llm.cache.reset()
        self.llm.generate({"prompt_token_ids": prefix}, _greedy(1))
        return self._timed([prefix + tail for tail in tails], num_new)

    def _timed(self, prompts: list[list[int]], num_new: int) -> float:
        started = time.perf_counter()
        self.llm.generate([{"prompt_token_ids": prompt} for prompt in prompts], _greedy(num_new))
        return time.perf_counter() - started


def _greedy(num_new: int) -> SamplingParams:
    return SamplingParams(temperature=0.0, max_tokens=num_new, ignore_eos=True)
