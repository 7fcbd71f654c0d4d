"""What the stages share: the queues, and the plan of the step they are filling."""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass, field
from operator import attrgetter

from kvloom.engine.request import Sequence, Status
from kvloom.errors import InternalError, KvloomError
from kvloom.segment import SpanSet


@dataclass
class Queues:
    """``waiting`` and ``running``, both in order: by the requests' turns, then by arrival."""

    waiting: list[Sequence] = field(default_factory=list)
    running: list[Sequence] = field(default_factory=list)

    def enqueue(self, sequence: Sequence) -> None:
        """To the queue of those that hold nothing and lack everything."""
        sequence.status = Status.WAITING
        bisect.insort(self.waiting, sequence, key=attrgetter("order"))

    def start(self, sequence: Sequence) -> None:
        sequence.status = Status.RUNNING
        bisect.insort(self.running, sequence, key=attrgetter("order"))

    def remove(self, sequence: Sequence) -> None:
        queue = self.waiting if sequence.status is Status.WAITING else self.running
        queue.remove(sequence)

    def discard(self, sequence: Sequence) -> None:
        """Remove it from wherever it is, if it is anywhere."""
        for queue in (self.waiting, self.running):
            if sequence in queue:
                queue.remove(sequence)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Positions of one sequence to compute in this step."""

    sequence: Sequence
    spans: SpanSet

    @property
    def closes(self) -> bool:
        """True when nothing is left to compute afterwards: the last row's logits are wanted."""
        return len(self.spans) == len(self.sequence.kv.missing)


@dataclass
class StepPlan:
    """The step in the making: who computes what.

    rows_left: rows that may be added. late_rows_left: how many of them for prompts that were submitted after
    ``streaming_since_s``, by when the oldest answer that streams had begun. failed: sequences that can never go on, and
    why. peak_bytes: KV held while a context was compressed.
    """

    rows_left: int
    late_rows_left: int = 0
    streaming_since_s: float = math.inf
    chunks: dict[Sequence, Chunk] = field(default_factory=dict)
    failed: dict[Sequence, KvloomError] = field(default_factory=dict)
    peak_bytes: int = 0

    def room(self, sequence: Sequence) -> int:
        """Rows that a sequence may still have."""
        return min(self.rows_left, self.late_rows_left) if self._late(sequence) else self.rows_left

    def add(self, chunk: Chunk) -> None:
        self.chunks[chunk.sequence] = chunk
        self._use(chunk, len(chunk.spans))

    def discard(self, sequence: Sequence) -> None:
        chunk = self.chunks.pop(sequence, None)
        if chunk is not None:
            self._use(chunk, -len(chunk.spans))

    def no_room(self, sequence: Sequence) -> None:
        """It does not fit, and never will."""
        self.failed[sequence] = InternalError("KV memory is exhausted: this request does not fit although it is alone")

    def _use(self, chunk: Chunk, rows: int) -> None:
        self.rows_left -= rows
        if self._late(chunk.sequence):
            self.late_rows_left -= rows

    def _late(self, sequence: Sequence) -> bool:
        return len(sequence.kv.missing) > 1 and sequence.request.submitted_s > self.streaming_since_s
