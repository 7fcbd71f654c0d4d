"""What others may find of a sequence's KV, and are promised: the one place that knows what a request allows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from kvloom.engine.cache_params import CacheParams
from kvloom.engine.kv.holder import Holder
from kvloom.engine.kv.names import PageNames
from kvloom.memory.format import PAGE_TOKENS
from kvloom.memory.ledger import Identity
from kvloom.memory.table import PageTable
from kvloom.segment import PageKey


@dataclass(slots=True, eq=False)
class Sharing:
    """Publishes pages and keeps promises.

    ``promised``: keys of whole pages that it said it is going to compute. ``exact``: False once something was dropped
    or changed, on which all that is computed later depends: its key would not say so.
    """

    holder: Holder
    names: PageNames
    cache: CacheParams
    promised: set[PageKey] = field(default_factory=set)
    exact: bool = True

    @property
    def writes(self) -> bool:
        """Whether others may find anything."""
        return self.exact and self.cache.write

    def promise(self, indices: Iterable[int]) -> None:
        """Pages of these numbers are going to be computed, and can then be found: others had better wait for them."""
        keys, index = self.names.keys, self.holder.ledger.index
        for n in indices if self.writes else ():
            if n < len(keys) and index.coming_from(keys[n]) is None:
                self.promised.add(keys[n])
                index.announce(keys[n], self.holder.owner)

    def keep(self, index: int) -> None:
        """Page ``index`` is complete."""
        if index < len(self.names.keys):
            self.withdraw([self.names.keys[index]])

    def withdraw(self, keys: Iterable[PageKey]) -> None:
        """Nobody needs to wait for these any more."""
        for key in self.promised.intersection(keys):
            self.holder.ledger.index.withdraw(key, self.holder.owner)
            self.promised.discard(key)

    def publish(self, table: PageTable, group: int, index: int, size: int = PAGE_TOKENS) -> None:
        """Let a page be found whose first ``size`` entries are final; if its twin was there first, hold that one.

        A request that does not read the cache keeps its own; of one that does not write it, nothing is published.
        """
        if not self.writes:
            return
        names = self.names
        names.extend()
        page = table.get(index)
        assert page is not None
        tokens = tuple(names.page_tokens(index)[:size])
        content = names.contents[index] if size == PAGE_TOKENS else 0
        position, hints = index * PAGE_TOKENS, self.holder.hints
        findable = self.holder.ledger.publish(
            page, Identity(names.parent_key(index), tokens, position, content, group, hints)
        )
        if findable != page and self.cache.read:
            self.holder.adopt(table, index, findable, size)
