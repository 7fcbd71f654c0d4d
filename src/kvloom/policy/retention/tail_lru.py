"""Least recently used first, but before that what no conversation needs to answer its next turn in time.

The next turn of a conversation computes its new tokens and those of its history that are not cached. As long as that is
no more than a threshold, the latency is good enough: the last tokens of every history, as many as the threshold leaves
room for, are evicted first, and short conversations as a whole. Within both classes the least recently used block goes
first, and of one release the deepest.

Source: Tail-Optimized Caching for LLM Inference (arXiv 2510.15152), of which the abstract was read and the rule known
only in outline. We differ, or may: both the threshold and the length of the next turn are fixed numbers of tokens; a
conversation is what is released together, and no shorter one that shares a block with it is considered.
"""

from __future__ import annotations

from collections.abc import Set
from typing import NamedTuple

from kvloom.policy.events import Block, Format
from kvloom.policy.retention.order import Order
from kvloom.segment import PageId, Why

THRESHOLD_TOKENS = 512
NEXT_TOKENS = 128


class _Release(NamedTuple):
    """Blocks of one format that are let go at once, the deepest first: when, where the last of them begins, and where
    the first of them ends.
    """

    now: float
    position: int
    end: int


class TailLru:
    """Two classes, each in order of release. ``threshold_tokens``: how many the next turn may compute;
    ``next_tokens``: how many of them are new.
    """

    def __init__(self, threshold_tokens: int = THRESHOLD_TOKENS, next_tokens: int = NEXT_TOKENS) -> None:
        self._threshold_tokens, self._next_tokens = threshold_tokens, next_tokens
        self._order = Order()
        self._releases: dict[Format, _Release] = {}

    def stored(self, block: Block, now: float) -> None:
        pass

    def reused(self, block: Block, now: float) -> None:
        self._order.remove(block.page)

    def idle(self, block: Block, now: float) -> None:
        before = self._order.remove(block.page)
        if before is not None and before[1] == now:
            needed = before[0]  # said again: it is the same release
        else:
            needed = block.position < self._end(block, now) + self._next_tokens - self._threshold_tokens
        self._order.put(block, needed, now, -block.position)

    def gone(self, block: Block, why: Why, now: float) -> None:
        self._order.remove(block.page)

    def victim(self, format: Format | None, now: float) -> PageId | None:
        return self._order.first(format)

    def fresh(self) -> TailLru:
        return TailLru(self._threshold_tokens, self._next_tokens)

    def book(self) -> Set[PageId]:
        return self._order.pages()

    def _end(self, block: Block, now: float) -> int:
        """Tokens of the conversation that it is released with."""
        last = self._releases.get(block.format)
        end = block.position + len(block.tokens)
        if last is not None and last.now == now and block.position < last.position:
            end = last.end
        self._releases[block.format] = _Release(now, block.position, end)
        return end
