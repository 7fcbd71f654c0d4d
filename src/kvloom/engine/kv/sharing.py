"""What a sequence publishes and promises: the only place that applies a request's cache permissions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from kvloom.engine.cache_params import CacheParams
from kvloom.engine.kv.holder import Holder
from kvloom.engine.kv.names import PageNames
from kvloom.memory.format import PAGE_TOKENS
from kvloom.memory.keys import left_key, page_key
from kvloom.memory.ledger import Extent, Identity
from kvloom.memory.table import PageTable
from kvloom.segment import PageKey


@dataclass(slots=True, eq=False)
class Sharing:
    """Publishes pages and keeps promises.

    ``promised``: keys of whole pages that it has announced it will compute. ``exact``: False once KV was dropped or
    changed: everything computed later depends on that, and its key would not reflect it.
    """

    holder: Holder
    names: PageNames
    cache: CacheParams
    promised: set[PageKey] = field(default_factory=set)
    exact: bool = True

    @property
    def writes(self) -> bool:
        """Whether anything may be published."""
        return self.exact and self.cache.write

    def promise(self, indices: Iterable[int]) -> None:
        """Announce that pages with these numbers will be computed and published, so that others wait for them."""
        keys, index = self.names.keys, self.holder.ledger.index
        for n in indices if self.writes else ():
            if n < len(keys) and index.coming_from(keys[n]) is None:
                self.promised.add(keys[n])
                index.announce(keys[n], self.holder.owner)

    def promise_key(self, key: PageKey) -> None:
        """Announce that something else will be published under ``key``: what is left of a context, or a tail."""
        index = self.holder.ledger.index
        if self.writes and index.coming_from(key) is None:
            self.promised.add(key)
            index.announce(key, self.holder.owner)

    def keep(self, index: int) -> None:
        """Page ``index`` is complete: its promise is kept."""
        if index < len(self.names.keys):
            self.withdraw([self.names.keys[index]])

    def withdraw(self, keys: Iterable[PageKey]) -> None:
        """Withdraw promises: others no longer wait for these pages."""
        for key in self.promised.intersection(keys):
            self.holder.ledger.index.withdraw(key, self.holder.owner)
            self.promised.discard(key)

    def publish(self, table: PageTable, group: int, index: int, size: int = PAGE_TOKENS) -> None:
        """Publish a page whose first ``size`` entries are final; if an identical page already exists, hold that one.

        A request that does not read the cache keeps its own page; one that does not write it publishes nothing.
        """
        if not self.writes:
            return
        names = self.names
        names.extend()
        page = table.get(index)
        assert page is not None
        parent, tokens = names.parent_key(index), tuple(names.page_tokens(index)[:size])
        content, key = (names.contents[index], names.keys[index]) if size == PAGE_TOKENS else (0, None)
        identity = Identity(parent, tokens, index * PAGE_TOKENS, content, group, self.holder.hints_of(index), key)
        findable = self.holder.ledger.publish(page, identity)
        if findable != page and self.cache.read:
            self.holder.adopt(table, index, findable, size)

    def publish_lists(self, of_groups: Sequence[Sequence[Extent]]) -> bool:
        """Publish what a method left of the context, exactly that. False: it may not be, or the same is there.

        A layer group has an extent for each format of its lists, or none where nothing is left.
        """
        if not self.cache.write or self.names.left() is None:
            return False
        pages = [
            (self._left(group, number), extent.page)
            for group, extents in enumerate(of_groups)
            for number, extent in enumerate(extents)
        ]
        found = [self.holder.ledger.publish(page, identity) for identity, page in pages]
        return bool(pages) and found == [page for _, page in pages]

    def _left(self, group: int, number: int) -> Identity:
        """Of the first extent of a group under the name of what is left; of another one under a name beside it."""
        left, limit = self.names.left(), self.names.limit
        assert left is not None
        assert limit is not None
        parent, tokens = left
        if number:
            parent = left_key(parent, bytes([number]))
        position, key = limit // PAGE_TOKENS * PAGE_TOKENS, page_key(parent, tokens)
        return Identity(parent, tuple(tokens), position, 0, group, self.holder.hints, key)
