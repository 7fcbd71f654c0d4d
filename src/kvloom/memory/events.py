"""One stream of events, told to every listener; and which of what is idle goes first, as a policy has it."""

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
    """Tells every listener what happened, in their order.

    A listener that raises does no harm to the others nor to whoever caused the event: what happened has happened. The
    first fault of all is logged, every one is counted.

    ``idle_blocks``: all that is idle now, in the order in which it became so.
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
    """What goes first, by a policy that is one of the listeners of ``events``.

    The policy decides on the order and on nothing else. An answer that names nothing idle, or something of another
    format, is a fault of the policy; then what has been idle longest goes.
    """

    policy: Retention
    events: Events

    def first(self, format: Format | None, now: float) -> PageId | None:
        """What to drop first, of this format or of any; None when nothing of it is idle."""
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
        """Audit: what was told adds up to ``idle``, also for a policy that never failed. Raises InternalError."""
        if self.events.idle_blocks.keys() != idle:
            raise InternalError(f"{set(self.events.idle_blocks)} are idle by the events, but {set(idle)} are")
        if not self.events.faults and self.policy.book() != idle:
            name, book = type(self.policy).__name__, set(self.policy.book())
            raise InternalError(f"{name} takes {book} for idle, but {set(idle)} are")

    def _longest_idle(self, format: Format | None) -> PageId | None:
        blocks = self.events.idle_blocks.items()
        return next((page for page, block in blocks if format is None or block.format == format), None)
