"""The first to expire goes first: idle KV is worth keeping for a time that its requests may say.

A block that has expired is not dropped for that: it stays until room is needed. Of blocks that expire together, the
least recently used is evicted first, and among those the deepest.
"""

from __future__ import annotations

from collections.abc import Set

from kvloom.policy.events import Block, Format
from kvloom.policy.retention.order import Order
from kvloom.segment import PageId, Why

DEFAULT_TTL_S = 300.0


class TimeToLive:
    """Evicts in order of expiry. ``default_s``: for blocks of requests that say no time.

    With the same time for all, this is the order of release.
    """

    def __init__(self, default_s: float = DEFAULT_TTL_S) -> None:
        self._default_s = default_s
        self._order = Order()

    def stored(self, block: Block, now: float) -> None:
        pass

    def reused(self, block: Block, now: float) -> None:
        self._order.remove(block.page)

    def idle(self, block: Block, now: float) -> None:
        self._order.put(block, now + block.hints.get("ttl_s", self._default_s), now, -block.position)

    def gone(self, block: Block, why: Why, now: float) -> None:
        self._order.remove(block.page)

    def victim(self, format: Format | None, now: float) -> PageId | None:
        return self._order.first(format)

    def fresh(self) -> TimeToLive:
        return TimeToLive(self._default_s)

    def book(self) -> Set[PageId]:
        return self._order.pages()
