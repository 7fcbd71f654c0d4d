"""Settings of an engine."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from kvloom.config.cache import CacheConfig
from kvloom.config.tiers import TierConfig
from kvloom.errors import ConfigError

Activations = Literal["float32", "int8"]
GenerationConfig = Literal["auto", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerConfig:
    """How much runs at once.

    step_tokens: maximum rows computed per step. max_seqs: maximum number of concurrently running sequences.
    max_decode_slowdown: how long a step with prompts may take while answers stream, as a multiple of a step without;
    larger values serve new prompts sooner and make streams less smooth. max_token_latency_s: seconds between two tokens
    of an answer that prompts may not exceed, 99 times of 100; it takes the place of max_decode_slowdown. Where the
    answers alone take longer, prompts are computed a few tokens at a time.
    """

    step_tokens: int = 512
    max_seqs: int = 64
    max_decode_slowdown: float = 2.0
    max_token_latency_s: float | None = None

    def __post_init__(self) -> None:
        if self.step_tokens < 1 or self.max_seqs < 1:
            raise ConfigError("step_tokens and max_seqs must be at least 1")
        if not self.max_decode_slowdown >= 1:
            raise ConfigError(f"max_decode_slowdown must be at least 1, got {self.max_decode_slowdown}")
        if self.max_token_latency_s is not None and not self.max_token_latency_s > 0:
            raise ConfigError(f"max_token_latency_s must be positive, got {self.max_token_latency_s}")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """All settings of an engine. ``threads``: None uses all cores available to this process.

    ``activations``: ``"int8"`` rounds them to 8 bits, per group of 32, in products with quantized weights;
    ``"float32"`` is exact. ``generation_config``: sampling defaults for requests that set none; ``"auto"`` uses the
    model's own recommendations, ``"none"`` neutral values.
    """

    model: str
    max_model_len: int | None = None
    threads: int | None = None
    seed: int = 0
    activations: Activations = "int8"
    generation_config: GenerationConfig = "auto"
    cache: CacheConfig = field(default_factory=CacheConfig)
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    tiers: TierConfig = field(default_factory=TierConfig)

    def __post_init__(self) -> None:
        if self.max_model_len is not None and self.max_model_len < 1:
            raise ConfigError(f"max_model_len must be at least 1, got {self.max_model_len}")
        if self.threads is not None and self.threads < 1:
            raise ConfigError(f"threads must be at least 1, got {self.threads}")
        if self.activations not in ("float32", "int8"):
            raise ConfigError(f"unknown activations `{self.activations}`", hint="one of float32, int8")
        if self.generation_config not in get_args(GenerationConfig):
            raise ConfigError(f"unknown generation_config `{self.generation_config}`", hint="one of auto, none")
