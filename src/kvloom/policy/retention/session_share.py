"""A share of the memory that sessions which come again do not lose to requests that are over for good.

Blocks of such sessions have the hint ``session``. While all others take more than what is left beside the share, the
one of them that was used least recently goes before a block of a session that has been heard of lately; within it, and
among themselves, blocks go in the order of the policy. So a burst of small requests does not flush a long session, an
idle session is none after a while, and where nobody names sessions the order is the policy's.
"""

from __future__ import annotations

from collections.abc import Set

from kvloom.policy.events import Block, Format, priority_of
from kvloom.policy.retention.base import Retention
from kvloom.policy.retention.order import Order
from kvloom.segment import PageId, Why

ACTIVE_S = 600.0
"""For which a session is heard of lately after a block's last use, unless its request gave a longer ``ttl_s``."""


class SessionShare:
    """``policy``: of everything. ``others_bytes``: what all others may take before they go first."""

    def __init__(self, policy: Retention, others_bytes: int) -> None:
        self.policy = policy
        self._others_bytes, self._used_bytes = others_bytes, 0
        self._others: set[PageId] = set()
        self._order = Order()
        """Of others that are idle."""
        self._active: dict[PageId, tuple[float, float]] = {}
        """Of sessions' blocks that are idle: until when, and with which priority."""

    def stored(self, block: Block, now: float) -> None:
        self._sort(block)
        self.policy.stored(block, now)

    def reused(self, block: Block, now: float) -> None:
        self._forget(block.page)
        self.policy.reused(block, now)

    def idle(self, block: Block, now: float) -> None:
        self._forget(block.page)
        self._sort(block)
        if block.page in self._others:
            self._order.put(block, now, -block.position)
        else:
            until_s = now + max(ACTIVE_S, block.hints.get("ttl_s", 0.0))
            self._active[block.page] = until_s, priority_of(block.hints)
        self.policy.idle(block, now)

    def gone(self, block: Block, why: Why, now: float) -> None:
        self._forget(block.page)
        if block.page in self._others:
            self._others.discard(block.page)
            self._used_bytes -= block.size_bytes
        self.policy.gone(block, why, now)

    def victim(self, format: Format | None, now: float) -> PageId | None:
        page = self.policy.victim(format, now)
        if page is None or self._used_bytes <= self._others_bytes or page not in self._active:
            return page
        until_s, priority = self._active[page]
        other = self._order.lowest(format) if until_s > now else None
        return page if other is None or other[0] > priority else PageId(int(other[-1]))

    def fresh(self) -> SessionShare:
        return SessionShare(self.policy.fresh(), self._others_bytes)

    def book(self) -> Set[PageId]:
        return self.policy.book()

    def _sort(self, block: Block) -> None:
        """A session that uses what others have stored makes it its own."""
        is_other = "session" not in block.hints
        if is_other == (block.page in self._others):
            return
        if is_other:
            self._others.add(block.page)
            self._used_bytes += block.size_bytes
        else:
            self._others.discard(block.page)
            self._used_bytes -= block.size_bytes

    def _forget(self, page: PageId) -> None:
        """It is no longer idle."""
        self._order.remove(page)
        self._active.pop(page, None)
