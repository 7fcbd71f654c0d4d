"""Chunk: split the row budget. Sequences that need one row go first, then the others in order.

A prompt that arrives while answers are streaming gets a share of the rows that keeps them flowing (``share.py``).
Prompts that were there when the oldest of those answers began get all rows that are left: requests that arrive
together start together, and meanwhile they stream in larger steps.
"""

from __future__ import annotations

from dataclasses import dataclass

from kvloom.engine.request import Sequence
from kvloom.engine.scheduler.share import PromptShare
from kvloom.engine.scheduler.state import Chunk, Draft, Queues

_TOGETHER_S = 0.5
"""Requests that come within this time of an answer's first token count as having come with it: over HTTP a burst is
read one by one, on cores that compute the first of it already."""


@dataclass(frozen=True, slots=True)
class ChunkRunning:
    """Gives every running sequence its lowest missing positions, as far as rows are left and nothing pending precedes them."""

    share: PromptShare

    def run(self, queues: Queues, draft: Draft) -> None:
        single: list[Sequence] = []
        others: list[Sequence] = []
        for sequence in queues.running:
            (single if len(sequence.kv.missing) == 1 else others).append(sequence)
        streaming = [since for sequence in single if (since := sequence.request.streaming_since_s) is not None]
        if streaming:
            draft.streaming_since_s = min(streaming) + _TOGETHER_S
            if prompts := len(others) + len(queues.waiting):
                draft.late_rows_left = self.share.rows(len(streaming), prompts)
        for sequence in (*single, *others):
            if (room := draft.room(sequence)) and (spans := sequence.kv.ready(room)):
                draft.add(Chunk(sequence, spans))
