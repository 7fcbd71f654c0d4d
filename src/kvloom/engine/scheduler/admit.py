"""Admit: start waiting sequences in order, while there are rows, slots and memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from kvloom.engine.kv import Results
from kvloom.engine.request import Sequence
from kvloom.engine.scheduler.match import Match, match
from kvloom.engine.scheduler.reserve import Reserve
from kvloom.engine.scheduler.state import Chunk, Queues, StepPlan
from kvloom.engine.scheduler.turns import Turns
from kvloom.memory.ledger import Ledger
from kvloom.policy.actions import Drop
from kvloom.policy.cost_estimate import CostEstimate
from kvloom.segment import RAM, Miss, Reused, Span, SpanSet


@dataclass
class Admit:
    """Starts sequences in order, but a sequence that needs a page which another is computing waits a step for it."""

    ledger: Ledger
    reserve: Reserve
    max_seqs: int
    clock: Callable[[], float]
    turns: Turns
    results: Results
    prefill_cost: CostEstimate
    hit_tokens: int = 0
    miss_tokens: int = 0

    def __post_init__(self) -> None:
        self.misses_by_why: dict[str, int] = {}
        self._no_room: tuple[Sequence, int] | None = None

    def run(self, queues: Queues, plan: StepPlan) -> None:
        for sequence in list(queues.waiting):
            if not plan.room(sequence) or len(queues.running) >= self.max_seqs or self._hopeless(sequence):
                return
            if sequence in plan.failed:
                continue
            found = match(sequence, self.ledger.index, self.results, self.prefill_cost.proportions)
            if found.waits_for is not None:
                continue
            started = self._start(sequence, found, queues)
            if started is None:
                if queues.running:
                    self._no_room = sequence, self.ledger.changes
                    return
                plan.no_room(sequence)
                continue
            queues.remove(sequence)
            queues.start(sequence)
            self.turns.started(sequence.request.turn)
            self._account(sequence, started)
            spans = sequence.kv.ready(plan.room(sequence))
            if spans and sequence.kv.reserve(spans):
                plan.add(Chunk(sequence, spans))

    def _hopeless(self, sequence: Sequence) -> bool:
        """Whether it did not fit before and nothing has been released since: another look-up would be in vain."""
        return self._no_room is not None and self._no_room == (sequence, self.ledger.changes)

    def _start(self, sequence: Sequence, found: Match, queues: Queues) -> Match | None:
        """The match with which it started; None if there is no room yet."""
        if self.reserve.try_start(sequence, found, headroom=len(queues.running)):
            return found
        if queues.running:
            return None
        # Nothing else runs, so it must fit: drop the cached pages that it does not reuse, then all of them.
        for keep in (found.pages, set[int]()):
            for page in self.ledger.droppable():
                if page not in keep:
                    self.ledger.apply(Drop(page))
            found = match(sequence, self.ledger.index, self.results, self.prefill_cost.proportions)
            if self.reserve.try_start(sequence, found, headroom=0):
                return found
        return None

    def _account(self, sequence: Sequence, found: Match) -> None:
        if found.result is not None:
            sequence.was_compressed(found.result.kept)
        if sequence.started:
            return
        sequence.started = True
        metrics, num_prompt = sequence.request.metrics, sequence.num_prompt
        prompt, missing = SpanSet.full(num_prompt), sequence.kv.missing
        computed = len(missing & prompt)
        if sequence.index == 0:
            metrics.cached_tokens = num_prompt - computed
            metrics.misses = list(_within(found.misses, num_prompt))
            metrics.reused = [Reused(span, RAM) for span in prompt - missing]
            metrics.queue_s = self.clock() - sequence.request.submitted_s
            self.hit_tokens += metrics.cached_tokens
            self.miss_tokens += computed
            for miss in metrics.misses:
                self.misses_by_why[miss.why] = self.misses_by_why.get(miss.why, 0) + len(miss.span)


def _within(misses: tuple[Miss, ...], stop: int) -> Iterator[Miss]:
    """Without what is only repeated of a context."""
    for miss in misses:
        if miss.span.start < stop:
            yield Miss(Span(miss.span.start, min(miss.span.stop, stop)), miss.why)
