"""Fetch: take in what tiers have delivered since the last step, and give up what is not worth waiting for.

A sequence whose load fails, in part or altogether, starts over, and loads nothing more: what has come is in RAM by then
and is found there. A document that is computed alone goes on with what has come. So a tier that is slow, broken or
lying costs a short wait, and what computing its pages takes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kvloom.engine.kv import SequenceKv
from kvloom.engine.request import Sequence
from kvloom.engine.scheduler.account import Account
from kvloom.engine.scheduler.state import Queues, StepPlan
from kvloom.engine.tiers import Load, Tiers
from kvloom.memory.tier.base import Fault
from kvloom.policy.cost_estimate import CostEstimate
from kvloom.segment import SpanSet

_TELLING = 4
"""Pages after which a load's speed says how long the rest will take."""


@dataclass
class Fetch:
    """``prefill``: what computing costs, as it is known so far."""

    tiers: Tiers
    prefill: CostEstimate
    account: Account
    clock: Callable[[], float]

    def run(self, queues: Queues, plan: StepPlan) -> None:
        if not self.tiers.levels:
            return
        for sequence in list(queues.running):
            load = sequence.kv.load
            if load is not None and not self._take(sequence.kv, load):
                self._start_over(sequence, load, queues)
            for kv in () if sequence.layerwise is None else sequence.layerwise.texts:
                if kv.load is not None and not self._take(kv, kv.load):
                    self._compute(kv, kv.load)
        for documents in [each.documents for each in queues.waiting if each.documents is not None]:
            for kv in documents.texts:
                if kv.load is not None and not self._take(kv, kv.load):
                    self._compute(kv, kv.load)
                    documents.let_go_of(kv)

    def _take(self, kv: SequenceKv, load: Load) -> bool:
        """Take in what has come. False: the rest is not to be waited for."""
        over, arrivals = load.over, load.take()
        came = [each for each in arrivals if each.fault is None]
        if arrivals:
            load.heard(arrivals)
            self.tiers.learn(arrivals)
        if came:
            kv.arrived([(each.wanted.group, each.wanted.index) for each in came], load.waits_for)
        if len(came) < len(arrivals):
            return False
        if over:
            load.close()
            kv.load = None
            return True
        if self._hopeless(kv, load):
            return False
        load.arm()
        return True

    def _hopeless(self, kv: SequenceKv, load: Load) -> bool:
        """Whether nothing has come for too long, or so slowly that the rest is computed faster."""
        now, cost = self.clock(), self.prefill.cost
        if now - self.tiers.heard_s(load) >= load.patience_s:
            return True
        pages = len(load.targets) - load.left
        if cost is None or pages < _TELLING:
            return False
        computing_s = sum(cost.block(span.start, len(span)) for span in kv.pending)
        return (now - load.began_s) / pages * load.left > computing_s

    def _compute(self, kv: SequenceKv, load: Load) -> None:
        """The rest of a text of its own."""
        self.tiers.blame(load.cancel(), Fault.SLOW, self.clock() - load.heard_s)
        kv.stop_loading()
        kv.must_compute = True

    def _start_over(self, sequence: Sequence, load: Load, queues: Queues) -> None:
        slow = load.cancel()
        self.tiers.blame(slow, Fault.SLOW, self.clock() - load.heard_s)
        self.account.not_loaded(sequence, sequence.kv.pending & SpanSet.full(sequence.num_prompt))
        queues.wait_again(sequence)
        sequence.kv.must_compute = True
