"""What is fixed about an engine's KV memory once it runs: for metrics and for whoever asks what is on."""

from __future__ import annotations

from dataclasses import dataclass

from kvloom.config import CacheConfig
from kvloom.engine.layout import KvLayout
from kvloom.memory.arena import page_stride
from kvloom.memory.format import PAGE_TOKENS


@dataclass(frozen=True, slots=True)
class KvFacts:
    """``page_tokens``: tokens of a page. ``pages``: how many tokens' pages the budget has room for, of all layer groups
    together, metadata aside. ``windows``: of the layer groups, None where all positions are seen. ``tiers``: names of
    those beside RAM, the fastest first.
    """

    page_tokens: int
    pages: int
    kv_dtype: str
    retention: str
    bands: int
    windows: tuple[int | None, ...]
    tiers: tuple[str, ...]


def facts_of(config: CacheConfig, layout: KvLayout, budget_bytes: int, tiers: tuple[str, ...]) -> KvFacts:
    return KvFacts(
        page_tokens=PAGE_TOKENS,
        pages=budget_bytes // sum(page_stride(each) for each in layout.formats),
        kv_dtype=config.kv_dtype,
        retention=config.retention,
        bands=config.bands,
        windows=layout.windows,
        tiers=tiers,
    )
