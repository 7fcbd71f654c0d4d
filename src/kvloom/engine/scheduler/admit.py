"""Admit: start waiting sequences in order, while there are rows, slots and memory."""

from __future__ import annotations

from dataclasses import dataclass

from kvloom.engine.kv import Results
from kvloom.engine.request import Sequence
from kvloom.engine.scheduler.account import Account
from kvloom.engine.scheduler.bands import Bands
from kvloom.engine.scheduler.loads import Loads
from kvloom.engine.scheduler.match import Match, match
from kvloom.engine.scheduler.reserve import Reserve
from kvloom.engine.scheduler.state import Chunk, Queues, StepPlan
from kvloom.engine.scheduler.turns import Turns
from kvloom.memory.ledger import Ledger
from kvloom.policy.actions import Drop


@dataclass
class Admit:
    """Starts sequences in order, but a sequence that needs a page which another is computing waits a step for it.

    One that has no room may begin by bands; then nobody is started before that is over.
    """

    ledger: Ledger
    reserve: Reserve
    max_seqs: int
    turns: Turns
    results: Results
    loads: Loads
    account: Account
    bands: Bands

    def __post_init__(self) -> None:
        self._no_room: tuple[Sequence, int] | None = None

    def run(self, queues: Queues, plan: StepPlan) -> None:
        queues.deferred = 0
        for sequence in () if self.bands.busy else list(queues.waiting):
            if not plan.room(sequence) or len(queues.running) >= self.max_seqs or self._hopeless(sequence):
                return
            if sequence in plan.failed:
                continue
            found = self._match(sequence)
            if found.waits_for is not None:
                queues.deferred += 1
                continue
            started = self._start(sequence, found, queues)
            if started is None:
                if queues.running:
                    if (begun := self.bands.begin(sequence, found, queues, plan)) is not None:
                        self._run(sequence, queues)
                        self.account.started(sequence, begun)
                        return
                    self._no_room = sequence, self.ledger.changes
                    return
                plan.no_room(sequence)
                continue
            self._run(sequence, queues)
            if started.result is not None:
                sequence.was_compressed(started.result.kept)
            self.loads.tiers.pass_over(started.passed_over.values())
            self.loads.begin(sequence.kv, started.loads, started.pending)
            self.account.started(sequence, started)
            spans = sequence.kv.ready(plan.room(sequence))
            if spans and sequence.kv.reserve(spans):
                plan.add(Chunk(sequence, spans))
            if sequence.kv.fuses:
                return  # it takes room for its documents before anybody else is started

    def _run(self, sequence: Sequence, queues: Queues) -> None:
        queues.remove(sequence)
        queues.start(sequence)
        self.turns.started(sequence.request.turn)

    def _hopeless(self, sequence: Sequence) -> bool:
        """Whether it did not fit before and nothing has been released since: another look-up would be in vain."""
        return self._no_room is not None and self._no_room == (sequence, self.ledger.changes)

    def _start(self, sequence: Sequence, found: Match, queues: Queues) -> Match | None:
        """The match with which it started; None if there is no room yet."""
        while not self.reserve.try_start(sequence, found, headroom=len(queues.running)):
            if not queues.give_up_documents(but=sequence):
                break
        else:
            return found
        if queues.running:
            return None
        queues.give_up_documents()
        sequence.kv.takes_lossy = False  # a format of its own may take more room than it saves
        # Nothing else runs, so it must fit: drop the cached pages that it does not reuse, then all of them.
        for keep in (found.pages, set[int]()):
            for page in self.ledger.droppable():
                if page not in keep:
                    self.ledger.apply(Drop(page))
            found = self._match(sequence)
            if self.reserve.try_start(sequence, found, headroom=0):
                return found
        return None

    def _match(self, sequence: Sequence) -> Match:
        return match(sequence, self.ledger.index, self.results, self.loads)
