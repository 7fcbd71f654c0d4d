"""Layer groups with a window: what slides out of it is given back while a sequence goes on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from kvloom.engine.kv.holder import Holder
from kvloom.memory.format import PAGE_TOKENS
from kvloom.memory.table import PageTable, page_indices
from kvloom.segment import Span, SpanSet


@dataclass(frozen=True, slots=True)
class Windows:
    """``tables``: those of the groups that have a window, with its length."""

    tables: tuple[tuple[PageTable, int], ...]

    @classmethod
    def of(cls, tables: Iterable[PageTable]) -> Windows:
        return cls(tuple((table, table.window) for table in tables if table.window is not None))

    def trim(self, first: int, holder: Holder) -> None:
        """Release pages that no row from position ``first`` on sees."""
        for table, window in self.tables:
            low = (first - window + 1) // PAGE_TOKENS
            if low > table.trimmed:
                gone = range(table.trimmed, min(low, len(table.ids)))
                holder.give_back(table, [index for index in gone if table.get(index) is not None])
                table.trimmed = low

    def hold(self, length: int, lacking: SpanSet) -> bool:
        """Whether all KV that rows from ``length`` on see is still held, but for that of ``lacking`` positions."""
        for table, window in self.tables:
            low = max(0, length - window + 1)
            seen = SpanSet((Span(low, length),)) - lacking if low < length else SpanSet()
            if any(table.get(index) is None for index in page_indices(seen)):
                return False
        return True
