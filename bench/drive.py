"""Load a model once, and make engines over it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass

from kvloom.config import DEFAULT_KV_DTYPE, Activations, CacheConfig, EngineConfig, KvDtype
from kvloom.engine.build import Loaded, build
from kvloom.engine.engine import Engine
from kvloom.eval.subject import engine_beside


@dataclass(frozen=True, slots=True)
class ModelEngines:
    """A loaded model; every engine made from it shares the weights and has memory of its own."""

    loaded: Loaded
    kv_dtype: KvDtype

    def encode(self, text: str) -> list[int]:
        return self.loaded.tokenizer.encode(text)

    def make(self, kv_bytes: int | str, clock: Callable[[], float] = time.monotonic) -> Engine:
        first = self.loaded.engine
        cache = dataclasses.replace(first.config.cache, kv_bytes=kv_bytes, kv_dtype=self.kv_dtype)
        return engine_beside(first, cache, clock)


def load(model: str, kv_dtype: KvDtype = DEFAULT_KV_DTYPE, activations: Activations = "int8") -> ModelEngines:
    """Load a pulled model once."""
    config = EngineConfig(model=model, activations=activations, cache=CacheConfig(kv_bytes="64MiB", kv_dtype=kv_dtype))
    return ModelEngines(build(config), kv_dtype)
