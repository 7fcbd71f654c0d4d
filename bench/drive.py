"""Drive an engine by hand: submit prompts, step to the end, gather what came back."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from kvloom.config import Activations, CacheConfig, EngineConfig, KvDtype
from kvloom.engine.build import Loaded, build
from kvloom.engine.engine import Engine
from kvloom.engine.outputs import RequestMetrics, RequestUpdate
from kvloom.engine.params import SamplingParams
from kvloom.policy.retention.lru import LeastRecentlyUsed

EngineFactory = Callable[[int | str], Engine]
"""A fresh engine over one model, with a KV budget in bytes (or text such as ``"256MiB"``)."""


@dataclass(slots=True)
class Answer:
    """The tokens of every continuation of a request, and what it cost."""

    tokens: dict[int, list[int]] = field(default_factory=dict)
    metrics: RequestMetrics = field(default_factory=RequestMetrics)
    error: str | None = None

    def add(self, update: RequestUpdate) -> None:
        for delta in update.deltas:
            self.tokens.setdefault(delta.index, []).extend(delta.token_ids)
        self.metrics, self.error = update.metrics, update.error


def run_all(engine: Engine, prompts: Sequence[Sequence[int]], params: SamplingParams) -> list[Answer]:
    """Run prompts together, to the end; answers in their order. Raises RuntimeError when one ends with an error."""
    answers = {f"run-{n}": Answer() for n in range(len(prompts))}
    for name, prompt in zip(answers, prompts, strict=True):
        engine.submit(name, list(prompt), params)
    while engine.has_work:
        for update in engine.step():
            answers[update.request_id].add(update)
    failed = [answer.error for answer in answers.values() if answer.error]
    if failed:
        raise RuntimeError(f"{len(failed)} of {len(prompts)} requests failed: {failed[0]}")
    return list(answers.values())


def run_one(engine: Engine, prompt: Sequence[int], params: SamplingParams) -> Answer:
    """Run one prompt alone."""
    return run_all(engine, [prompt], params)[0]


@dataclass(frozen=True, slots=True)
class ModelEngines:
    """A loaded model; every engine made from it shares the weights and has memory of its own."""

    loaded: Loaded
    kv_dtype: KvDtype

    def encode(self, text: str) -> list[int]:
        return self.loaded.tokenizer.encode(text)

    def make(self, kv_bytes: int | str) -> Engine:
        first = self.loaded.engine
        cache = CacheConfig(kv_bytes=kv_bytes, kv_dtype=self.kv_dtype)
        config = dataclasses.replace(first.config, cache=cache)
        return Engine(first.model, first.tokenizer, config, first.attend_factory, LeastRecentlyUsed())


def load(model: str, kv_dtype: KvDtype = "float16", activations: Activations = "int8") -> ModelEngines:
    """Load a pulled model once."""
    config = EngineConfig(model=model, activations=activations, cache=CacheConfig(kv_bytes="64MiB", kv_dtype=kv_dtype))
    return ModelEngines(build(config), kv_dtype)
