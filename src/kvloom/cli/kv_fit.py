"""What KV costs: bytes per token of each layer group, and how much context a budget holds."""

from __future__ import annotations

from dataclasses import dataclass

from kvloom.memory.format import PAGE_TOKENS, PageFormat
from kvloom.model.kv_map import KvMap, LayerGroup

_ENDLESS = 2**40


@dataclass(frozen=True, slots=True)
class KvFit:
    """Page formats of a model's layer groups in one number format. Page tables are not counted."""

    groups: tuple[LayerGroup, ...]
    formats: tuple[PageFormat, ...]

    @staticmethod
    def of(kv_map: KvMap, kv_dtype: str) -> KvFit:
        groups = kv_map.groups
        formats = tuple(
            PageFormat(group.name, group.layers, group.heads, group.k_dim, group.v_dim, kv_dtype)
            for group in groups
        )
        return KvFit(groups, formats)

    @property
    def token_bytes(self) -> int:
        """Bytes of one token in every group: the price of a token inside all windows."""
        return round(sum(each.token_bytes for each in self.formats))

    def context_bytes(self, tokens: int) -> int:
        """Bytes of one context's pages. A window that has moved may straddle one page more."""
        total = 0
        for group, each in zip(self.groups, self.formats, strict=True):
            pages = -(-tokens // PAGE_TOKENS)
            if group.window is not None:
                pages = min(pages, -(-group.window // PAGE_TOKENS) + 1)
            total += pages * each.page_bytes
        return total

    def longest_context(self, budget_bytes: int) -> int | None:
        """Tokens of the longest single context within a budget; None when windows make it endless."""
        if self.context_bytes(_ENDLESS) <= budget_bytes:
            return None
        low, high = 0, _ENDLESS
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.context_bytes(middle) <= budget_bytes else (low, middle)
        return low


def bytes_text(size: float) -> str:
    """
    >>> bytes_text(1536), bytes_text(512 * 2**20)
    ('1.5 KiB', '512 MiB')
    """
    units = ("B", "KiB", "MiB", "GiB", "TiB")
    power = 0
    while size >= 1024 and power < len(units) - 1:
        size, power = size / 1024, power + 1
    return f"{size:.4g} {units[power]}"
