"""State shared by the stages: the queues, and the plan of the step being scheduled."""

from __future__ import annotations

import bisect
import logging
import math
from dataclasses import dataclass, field
from operator import attrgetter

from kvloom.engine.kv import SequenceKv
from kvloom.engine.layer_pass import LayerPass, Layerwise
from kvloom.engine.request import Sequence, Status
from kvloom.engine.scheduler.prefill_budget import Allowance
from kvloom.engine.shadow import Shadow
from kvloom.errors import InternalError, KvloomError
from kvloom.segment import SpanSet

logger = logging.getLogger(__name__)


@dataclass
class Queues:
    """``waiting`` and ``running`` sequences, both ordered by the requests' turns, then by arrival.

    Those that wait hold no KV but documents that were loaded ahead for them (``LoadAhead``), and give them up whenever
    anybody else needs the room. ``deferred``: how many of them could have begun, but for pages that others are
    computing.
    """

    waiting: list[Sequence] = field(default_factory=list)
    running: list[Sequence] = field(default_factory=list)
    deferred: int = 0

    def enqueue(self, sequence: Sequence) -> None:
        """Add a sequence to the waiting ones: it holds no pages, and all of its positions are missing."""
        sequence.status = Status.WAITING
        bisect.insort(self.waiting, sequence, key=attrgetter("order"))

    def start(self, sequence: Sequence) -> None:
        sequence.status = Status.RUNNING
        bisect.insort(self.running, sequence, key=attrgetter("order"))

    def remove(self, sequence: Sequence) -> None:
        queue = self.waiting if sequence.status is Status.WAITING else self.running
        queue.remove(sequence)

    def wait_again(self, sequence: Sequence) -> None:
        """A running sequence gives everything back and waits: all its positions are missing again."""
        self.remove(sequence)
        sequence.release()
        self.enqueue(sequence)

    def give_up_documents(self, but: Sequence | None = None) -> bool:
        """The last of those that wait holds nothing any more of what was loaded ahead for it. False: nobody did."""
        return any(
            sequence.documents.give_up()
            for sequence in reversed(self.waiting)
            if sequence is not but and sequence.documents is not None
        )

    def discard(self, sequence: Sequence) -> None:
        """Remove a sequence from the queue that it is in, if any."""
        for queue in (self.waiting, self.running):
            if sequence in queue:
                queue.remove(sequence)


@dataclass(frozen=True, slots=True)
class Chunk:
    """The positions of a sequence that are computed in this step; those of its ``shadow`` if that is given."""

    sequence: Sequence
    spans: SpanSet
    shadow: Shadow | None = None

    @property
    def kv(self) -> SequenceKv:
        return self.sequence.kv if self.shadow is None else self.shadow.kv

    @property
    def wants_prompt_rows(self) -> bool:
        return self.shadow is None and self.sequence.wants_prompt_rows

    @property
    def closes(self) -> bool:
        """Whether nothing is missing afterwards, so that the last row's logits are needed."""
        return len(self.spans) == len(self.kv.missing)

    @property
    def asks(self) -> bool:
        """Whether they are needed for a watch, though more is missing."""
        return self.shadow is None and self.kv.asks(self.spans)


@dataclass
class StepPlan:
    """The plan of a step while it is being made.

    rows_left: rows that may still be added. late: what is left for prompts submitted after ``streaming_since_s``, when
    the oldest streaming answer had begun. failed: sequences that can never continue, with the error. peak_bytes: KV
    held while a context was compressed. compressing: whether any was. shadows: what is computed of shadows, which come
    after all chunks when there is memory to reserve. passes: what is computed through some layers only, each in a
    forward of its own; a row through a share of the layers counts as that share of a row.
    """

    rows_left: int
    late: Allowance = field(default_factory=Allowance)
    streaming_since_s: float = math.inf
    chunks: dict[Sequence, Chunk] = field(default_factory=dict)
    failed: dict[Sequence, KvloomError] = field(default_factory=dict)
    peak_bytes: int = 0
    compressing: bool = False
    shadows: dict[Sequence, Chunk] = field(default_factory=dict)
    passes: dict[Sequence, LayerPass] = field(default_factory=dict)

    @property
    def work(self) -> list[Chunk]:
        """The batch of the step. What a shadow says comes before what its sequence says."""
        return [*self.shadows.values(), *self.chunks.values()]

    def room(self, sequence: Sequence) -> int:
        """Rows that may still be added for a sequence."""
        rows = self.rows_left
        return min(rows, self.late.rows(sequence.kv.missing)) if self._late(sequence) else rows

    def room_for_pass(self, sequence: Sequence, layerwise: Layerwise) -> int:
        """The same for the next of its passes. No step has more rows than its limit, whatever share of layers they run
        through.
        """
        left, rows = layerwise.left, self.rows_left
        rows = min(rows, self.late.rows(left, layerwise.share)) if self._late(sequence) else rows
        return min(rows, len(left))

    def has_time(self, sequence: Sequence, share: float) -> bool:
        """Whether answers have time to spare for rows of a sequence through that share of the layers."""
        return not self._late(sequence) or self.late.affords(sequence.kv.missing, share)

    def add_pass(self, sequence: Sequence, work: LayerPass) -> None:
        self.passes[sequence] = work
        self._use_pass(sequence, work, 1)

    def add(self, chunk: Chunk) -> None:
        (self.chunks if chunk.shadow is None else self.shadows)[chunk.sequence] = chunk
        self._use(chunk, 1)

    def discard(self, sequence: Sequence) -> None:
        chunk = self.chunks.pop(sequence, None)
        if chunk is not None:
            self._use(chunk, -1)
        work = self.passes.pop(sequence, None)
        if work is not None:
            self._use_pass(sequence, work, -1)
        self.discard_shadow(sequence)

    def discard_shadow(self, sequence: Sequence) -> None:
        chunk = self.shadows.pop(sequence, None)
        if chunk is not None:
            self._use(chunk, -1)

    def method_failed(self, sequence: Sequence, raised: Exception, what: str = "compression") -> None:
        """Mark a sequence as failed: what a method raised, perhaps a user's own, is told to whom asked for it."""
        error = raised if isinstance(raised, KvloomError) else None
        if error is None:
            logger.error("%s for %s failed", what, sequence.owner, exc_info=raised)
            error = InternalError(f"{what} failed: {type(raised).__name__}: {raised}")
            error.__cause__ = raised
        self.failed[sequence] = error

    def no_room(self, sequence: Sequence) -> None:
        """Mark a sequence as failed: it does not fit and never will."""
        self.failed[sequence] = InternalError("KV memory is exhausted: this request does not fit although it is alone")

    def _use(self, chunk: Chunk, sign: int) -> None:
        self.rows_left -= sign * len(chunk.spans)
        if self._late(chunk.sequence):
            self.late.use(chunk.spans, sign)

    def _use_pass(self, sequence: Sequence, work: LayerPass, sign: int) -> None:
        self.rows_left -= sign * math.ceil(len(work.spans) * work.share)
        if self._late(sequence):
            self.late.use(work.spans, sign, work.share)

    def _late(self, sequence: Sequence) -> bool:
        return len(sequence.kv.missing) > 1 and sequence.request.submitted_s > self.streaming_since_s
