"""One stream of events for all listeners, and the eviction order, which a policy decides."""

from __future__ import annotations

import logging
from collections.abc import Set
from dataclasses import dataclass, field

from kvloom.errors import InternalError
from kvloom.policy.events import Block, Format, Listener
from kvloom.policy.retention.base import Retention
from kvloom.segment import PageId, Why

logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Events:
    """Delivers every event to the listeners, in their order.

    A listener that raises affects neither the others nor the operation that caused the event. The first exception is
    logged, every one is counted.

    ``idle_blocks``: all blocks that are idle now, in the order in which they became so.
    """

    listeners: list[Listener]
    faults: int = 0
    idle_blocks: dict[PageId, Block] = field(default_factory=dict)

    def stored(self, block: Block, now: float) -> None:
        for listener in self.listeners:
            try:
                listener.stored(block, now)
            except Exception as fault:
                self.blame(listener, fault)

    def reused(self, block: Block, now: float) -> None:
        self.idle_blocks.pop(block.page, None)
        for listener in self.listeners:
            try:
                listener.reused(block, now)
            except Exception as fault:
                self.blame(listener, fault)

    def idle(self, block: Block, now: float) -> None:
        self.idle_blocks[block.page] = block
        for listener in self.listeners:
            try:
                listener.idle(block, now)
            except Exception as fault:
                self.blame(listener, fault)

    def gone(self, block: Block, why: Why, now: float) -> None:
        self.idle_blocks.pop(block.page, None)
        for listener in self.listeners:
            try:
                listener.gone(block, why, now)
            except Exception as fault:
                self.blame(listener, fault)

    def blame(self, listener: Listener, fault: Exception) -> None:
        """Count a fault of ``listener``."""
        self.faults += 1
        if self.faults == 1:
            logger.error("%s failed: reuse may suffer, answers do not", type(listener).__name__, exc_info=fault)


@dataclass(frozen=True, slots=True, eq=False)
class Victims:
    """What to evict first, as decided by a policy that is one of the listeners of ``events``.

    The policy decides the order and nothing else. An answer that names no idle block, or one of another format, counts
    as a fault of the policy; the block that has been idle longest is then evicted.
    """

    policy: Retention
    events: Events

    def first(self, format: Format | None, now: float) -> PageId | None:
        """The block to drop first, of this format or of any; None when none is idle."""
        page: PageId | None = None
        fault: Exception | None = None
        try:
            page = self.policy.victim(format, now)
            block = None if page is None else self.events.idle_blocks.get(page)
            if block is not None and (format is None or block.format == format):
                return page
        except Exception as failure:
            fault = failure
        longest_idle = self._longest_idle(format)
        if fault is None and (page is not None or longest_idle is not None):
            fault = InternalError(f"{page} was named as a victim: not idle, or not of {format}")
        if fault is not None:
            self.events.blame(self.policy, fault)
        return longest_idle

    def check(self, idle: Set[PageId]) -> None:
        """Audit: delivered events add up to ``idle``, and so does the state of a policy that never failed.

        Raises InternalError.
        """
        if self.events.idle_blocks.keys() != idle:
            raise InternalError(f"{set(self.events.idle_blocks)} are idle by the events, but {set(idle)} are")
        if not self.events.faults and self.policy.book() != idle:
            name, book = type(self.policy).__name__, set(self.policy.book())
            raise InternalError(f"{name} takes {book} for idle, but {set(idle)} are")

    def _longest_idle(self, format: Format | None) -> PageId | None:
        blocks = self.events.idle_blocks.items()
        return next((page for page, block in blocks if format is None or block.format == format), None)
