"""Chunks and texts each in an order of their own, with a share of the memory that neither takes from the other.

KV of texts comes and goes with every question; that of chunks, passages computed alone, is read again and again. In one
order the former floods out the latter. Here chunks go first while they take more than their share, and texts while
chunks take less: what one side leaves unused the other has. Lower priority still goes before higher, whatever it is of,
and so does what is not pinned.

Slabs are one order: a slab has both.
"""

from __future__ import annotations

from collections.abc import Set

from kvloom.policy.events import Block, Format, priority_of
from kvloom.policy.retention.base import Retention
from kvloom.segment import PageId, Why


class ChunkShare:
    """``texts``: the policy of everything else; chunks have a fresh one of its kind, and ``chunk_bytes``."""

    def __init__(self, texts: Retention, chunk_bytes: int) -> None:
        self.texts, self.chunks = texts, texts.fresh()
        self._chunk_bytes, self._used_bytes = chunk_bytes, 0
        self._of_chunks: set[PageId] = set()
        self._priorities: dict[PageId, float] = {}
        """Of what is idle."""

    def stored(self, block: Block, now: float) -> None:
        if "chunk" in block.hints:
            self._of_chunks.add(block.page)
            self._used_bytes += block.size_bytes
        self._of(block).stored(block, now)

    def reused(self, block: Block, now: float) -> None:
        self._priorities.pop(block.page, None)
        self._of(block).reused(block, now)

    def idle(self, block: Block, now: float) -> None:
        self._priorities[block.page] = priority_of(block.hints)
        self._of(block).idle(block, now)

    def gone(self, block: Block, why: Why, now: float) -> None:
        self._priorities.pop(block.page, None)
        self._of(block).gone(block, why, now)
        if block.page in self._of_chunks:
            self._of_chunks.discard(block.page)
            self._used_bytes -= block.size_bytes

    def victim(self, format: Format | None, now: float) -> PageId | None:
        text = self.texts.victim(format, now)
        if not self._of_chunks:
            return text
        chunk = self.chunks.victim(format, now)
        if text is None or chunk is None:
            return chunk if text is None else text
        of_text, of_chunk = self._priorities[text], self._priorities[chunk]
        if of_text != of_chunk:
            return text if of_text < of_chunk else chunk
        return chunk if self._used_bytes > self._chunk_bytes else text

    def fresh(self) -> ChunkShare:
        return ChunkShare(self.texts.fresh(), self._chunk_bytes)

    def book(self) -> Set[PageId]:
        return {*self.texts.book(), *self.chunks.book()}

    def _of(self, block: Block) -> Retention:
        return self.chunks if block.page in self._of_chunks else self.texts
