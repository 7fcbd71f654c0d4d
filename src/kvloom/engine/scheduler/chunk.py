"""Chunk: split the row budget. Sequences that need one row go first, then the others in order of arrival."""

from __future__ import annotations

from dataclasses import dataclass

from kvloom.engine.scheduler.state import Chunk, Draft, Queues


@dataclass(frozen=True, slots=True)
class ChunkRunning:
    """Gives every running sequence the lowest positions of its gaps, as far as rows are left."""

    def run(self, queues: Queues, draft: Draft) -> None:
        for sequence in sorted(queues.running, key=lambda running: len(running.gaps) > 1):
            if draft.rows_left and sequence.gaps:
                draft.add(Chunk(sequence, sequence.gaps.first(draft.rows_left)))
