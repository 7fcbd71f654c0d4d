"""kvloom: KV-cache memory, managed span by span, by policy.

>>> from kvloom import LLM, SamplingParams  # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kvloom.config import TierConfig
    from kvloom.engine.async_engine import AsyncEngine
    from kvloom.engine.cache_params import CacheParams, Guard
    from kvloom.engine.edits import Edit
    from kvloom.engine.llm import LLM
    from kvloom.engine.outputs import CompletionOutput, Logprob, RequestMetrics, RequestOutput
    from kvloom.engine.params import SamplingParams
    from kvloom.engine.reasoning import ReasoningBudget, ReasoningForm
    from kvloom.engine.structured import StructuredOutputsParams
    from kvloom.policy.compression import Compression, compression_of
    from kvloom.policy.fusion import Fusion, fusion_of

__version__ = "0.1.0"

_HOMES = {
    "LLM": "kvloom.engine.llm",
    "AsyncEngine": "kvloom.engine.async_engine",
    "SamplingParams": "kvloom.engine.params",
    "StructuredOutputsParams": "kvloom.engine.structured",
    "ReasoningBudget": "kvloom.engine.reasoning",
    "ReasoningForm": "kvloom.engine.reasoning",
    "CacheParams": "kvloom.engine.cache_params",
    "Edit": "kvloom.engine.edits",
    "Guard": "kvloom.engine.cache_params",
    "RequestOutput": "kvloom.engine.outputs",
    "CompletionOutput": "kvloom.engine.outputs",
    "RequestMetrics": "kvloom.engine.outputs",
    "Logprob": "kvloom.engine.outputs",
    "TierConfig": "kvloom.config",
    "Compression": "kvloom.policy.compression",
    "compression_of": "kvloom.policy.compression",
    "Fusion": "kvloom.policy.fusion",
    "fusion_of": "kvloom.policy.fusion",
}

__all__ = [
    "LLM",
    "AsyncEngine",
    "CacheParams",
    "CompletionOutput",
    "Compression",
    "Edit",
    "Fusion",
    "Guard",
    "Logprob",
    "ReasoningBudget",
    "ReasoningForm",
    "RequestMetrics",
    "RequestOutput",
    "SamplingParams",
    "StructuredOutputsParams",
    "TierConfig",
    "compression_of",
    "fusion_of",
]


def __getattr__(name: str) -> Any:
    """Load public names on first use: importing an engine takes time that not every use of the package has."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module `kvloom` has no attribute `{name}`")
