"""What the ledger tells, on its way to the thread that publishes it: the engine's thread only appends to a list."""

from __future__ import annotations

import threading
from collections.abc import Collection
from typing import Literal, NamedTuple

from kvloom.memory.format import PAGE_TOKENS
from kvloom.policy.events import Block, Format, Heedless
from kvloom.segment import Why


class Change(NamedTuple):
    """``cleared``: nothing is stored any more, or nothing is known of what is; it has no block."""

    kind: Literal["stored", "gone", "cleared"]
    block: Block | None = None


CLEARED = Change("cleared")


class Feed(Heedless):
    """A listener of the ledger. Whoever takes what it heard may be slow: beyond ``limit`` changes all are dropped, and
    ``CLEARED`` stands for them, so that nobody takes for stored what is not.

    Whole pages of texts are told of, as in vLLM: no unfinished ones, nothing that compression has left, and no
    passages that were computed alone, which do not begin a prompt. ``formats``: of pages of texts.
    """

    def __init__(self, formats: Collection[Format], limit: int) -> None:
        self.dropped = 0
        self._formats, self._limit = frozenset(formats), limit
        self._lock, self._news = threading.Lock(), threading.Event()
        self._changes: list[Change] = [CLEARED]  # a subscriber may have heard of what another process had

    def stored(self, block: Block, now: float) -> None:
        if self._tells(block):
            self._put(Change("stored", block))

    def gone(self, block: Block, why: Why, now: float) -> None:
        if why is Why.RESET:
            self._put(CLEARED)
        elif self._tells(block):
            self._put(Change("gone", block))

    def take(self, seconds: float) -> list[Change]:
        """All that has come since the last call, in order; waits at most so long for something."""
        self._news.wait(seconds)
        with self._lock:
            self._news.clear()
            taken, self._changes = self._changes, []
        return taken

    def wake(self) -> None:
        self._news.set()

    def _tells(self, block: Block) -> bool:
        return len(block.tokens) == PAGE_TOKENS and block.format in self._formats and "chunk" not in block.hints

    def _put(self, change: Change) -> None:
        with self._lock:
            if change is CLEARED and self._changes[-1:] == [CLEARED]:
                return  # of all the pages that a reset drops
            if len(self._changes) >= self._limit:
                self.dropped += len(self._changes)
                self._changes = [CLEARED]
            self._changes.append(change)
        if not self._news.is_set():
            self._news.set()
