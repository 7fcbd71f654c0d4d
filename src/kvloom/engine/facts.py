"""What is fixed about an engine's KV memory once it runs: for metrics and for whoever asks what is on."""

from __future__ import annotations

from dataclasses import dataclass

from kvloom.config import CacheConfig
from kvloom.engine.layout import KvLayout
from kvloom.memory.arena import page_stride
from kvloom.memory.format import PAGE_TOKENS, PageFormat
from kvloom.segment import PageKey


@dataclass(frozen=True, slots=True)
class KvFacts:
    """``page_tokens``: tokens of a page. ``pages``: how many tokens' pages the budget has room for, of all layer groups
    together, metadata aside. ``formats``, ``windows``: of the layer groups; None where all positions are seen.
    ``root``: key of the empty prefix of texts without a salt. ``tiers``: names of those beside RAM, the fastest first.
    """

    page_tokens: int
    pages: int
    kv_dtype: str
    retention: str
    bands: int
    formats: tuple[PageFormat, ...]
    windows: tuple[int | None, ...]
    root: PageKey
    tiers: tuple[str, ...]


def facts_of(
    config: CacheConfig, layout: KvLayout, budget_bytes: int, root: PageKey, tiers: tuple[str, ...]
) -> KvFacts:
    return KvFacts(
        page_tokens=PAGE_TOKENS,
        pages=budget_bytes // sum(page_stride(each) for each in layout.formats),
        kv_dtype=config.kv_dtype,
        retention=config.retention,
        bands=config.bands,
        formats=layout.formats,
        windows=layout.windows,
        root=root,
        tiers=tiers,
    )
