"""What is evaluated: a model with its tokenizer, in an engine."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from kvloom.config import CacheConfig, TierConfig
from kvloom.engine.build import Loaded
from kvloom.engine.engine import Engine
from kvloom.engine.factory import make_engine
from kvloom.engine.retention import make_retention
from kvloom.engine.tiers.open import open_tiers


class Tokenizer(Protocol):
    """What an evaluation needs of a tokenizer."""

    @property
    def eos_token_ids(self) -> frozenset[int]: ...
    @property
    def bos_token_id(self) -> int | None: ...
    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]: ...
    def decode(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str: ...


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """A model by name, its tokenizer and an engine that runs it."""

    name: str
    tokenizer: Tokenizer
    engine: Engine

    def text_length(self, text: str) -> int:
        """Tokens of a text, special tokens not counted."""
        return len(self.tokenizer.encode(text, add_special_tokens=False))


def subject_of(loaded: Loaded) -> Subject:
    return Subject(loaded.manifest.name, loaded.tokenizer, loaded.engine)


_NO_TIERS = TierConfig()


def engine_beside(
    first: Engine,
    cache: CacheConfig,
    clock: Callable[[], float] = time.monotonic,
    tiers: TierConfig = _NO_TIERS,
) -> Engine:
    """Another engine over the same weights, with KV memory, and tiers, of its own."""
    config = dataclasses.replace(first.config, cache=cache, tiers=tiers)
    return make_engine(
        first.model,
        first.tokenizer,
        config,
        first.attend_factory,
        make_retention(cache.retention, first.model),
        clock,
        tier_factory=lambda formats: open_tiers(tiers, formats),
        lead=first.lead,
    )
