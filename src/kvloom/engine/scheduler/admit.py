"""Admit: start waiting sequences in their order while there are rows, places and memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kvloom.engine.pages import Pages, page_indices
from kvloom.engine.request import Sequence
from kvloom.engine.scheduler.fit import Fit
from kvloom.engine.scheduler.match import Match, match
from kvloom.engine.scheduler.state import Chunk, Queues, StepPlan
from kvloom.engine.scheduler.turns import Turns
from kvloom.memory.ledger import Ledger
from kvloom.policy.actions import Drop
from kvloom.segment import RAM, Reused, SpanSet


@dataclass
class Admit:
    """Who is first in order starts first; but who would compute a page that another is computing now waits a step."""

    ledger: Ledger
    fit: Fit
    pages: Pages
    max_seqs: int
    clock: Callable[[], float]
    turns: Turns
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
            found = match(sequence, self.ledger.index)
            if found.waits_for is not None:
                continue
            started = self._start(sequence, found, queues)
            if started is None:
                if queues.running:
                    self._no_room = sequence, self.ledger.changes
                    return
                plan.failed.append(sequence)
                continue
            queues.remove(sequence)
            queues.start(sequence)
            self.turns.started(sequence.request.turn)
            self._account(sequence, started)
            self._announce(sequence)
            chunk = Chunk(sequence, sequence.gaps.first(plan.room(sequence)))
            if self.pages.secure(sequence, chunk.spans, range(len(sequence.tables))):
                plan.add(chunk)

    def _hopeless(self, sequence: Sequence) -> bool:
        """True when it did not fit before and nothing has been given back since: not worth another look-up."""
        return self._no_room is not None and self._no_room == (sequence, self.ledger.changes)

    def _start(self, sequence: Sequence, found: Match, queues: Queues) -> Match | None:
        """The match it started with; None when there is no room yet."""
        if self.fit.try_start(sequence, found, headroom=len(queues.running)) is None:
            return found
        if queues.running:
            return None
        # Alone, it must fit: give up everything that is cached and does not help, then everything.
        helpful = {hit.page for hit in found.hits} | {page for copy in found.copies for _, page in copy.pages}
        for keep in (helpful, set[int]()):
            for page in self.ledger.droppable():
                if page not in keep:
                    self.ledger.apply(Drop(page))
            found = match(sequence, self.ledger.index)
            if self.fit.try_start(sequence, found, headroom=0) is None:
                return found
        return None

    def _account(self, sequence: Sequence, found: Match) -> None:
        if sequence.started:
            return
        sequence.started = True
        metrics, num_prompt = sequence.request.metrics, sequence.num_prompt
        prompt_gaps = len(sequence.gaps & SpanSet.full(num_prompt))
        if sequence.index == 0:
            metrics.cached_tokens = num_prompt - prompt_gaps
            metrics.misses = list(found.misses)
            metrics.reused = [Reused(span, RAM) for span in SpanSet.full(num_prompt) - sequence.gaps]
            metrics.queue_s = self.clock() - sequence.request.submitted_s
            self.hit_tokens += metrics.cached_tokens
            self.miss_tokens += prompt_gaps
            for miss in found.misses:
                self.misses_by_why[miss.why] = self.misses_by_why.get(miss.why, 0) + len(miss.span)

    def _announce(self, sequence: Sequence) -> None:
        """Promise the whole pages that are going to be computed, if others may have them."""
        if not sequence.request.cache.write:
            return
        index = self.ledger.index
        for n in page_indices(sequence.gaps):
            complete = all(table.is_full(n) for table in sequence.tables)
            if n < len(sequence.keys) and not complete and index.coming_from(sequence.keys[n]) is None:
                index.announce(sequence.keys[n], sequence.owner)
                sequence.announced.add(sequence.keys[n])
