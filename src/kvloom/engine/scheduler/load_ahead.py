"""Load ahead: tiers deliver documents of prompts that wait, while others are computed.

Ordinary KV is loaded when its request starts, beside the computation of what comes before it. Of a fused prompt nothing
comes before its documents but a short prefix, so its first token would wait for a tier; here loading for the next
request overlaps computing for this one (MatKV, arXiv 2512.22195, which loads one batch ahead). What is loaded is held
until the prompt starts, within what the ledger has to spare, and is given up when anybody else needs the room.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import islice

from kvloom.engine.request import Sequence
from kvloom.engine.scheduler.finding import Finding
from kvloom.engine.scheduler.state import Queues, StepPlan
from kvloom.memory.format import PageFormat

_PROMPTS = 2
"""So many that wait, the first in order, have documents loaded: what comes later would displace what comes sooner."""


@dataclass(slots=True)
class LoadAhead:
    """A prompt is tried once; one for which there was no room, again when less is held. One whose documents are
    compressed is not: what is left of them is in no tier.
    """

    finding: Finding
    _no_room: tuple[Sequence, int] | None = field(default=None, init=False)

    def run(self, queues: Queues, plan: StepPlan) -> None:
        if not self.finding.loads.tiers.levels or any(map(_has_just_started, queues.running)):
            return
        prompts = (each for each in queues.waiting if each.kv.fuses and each.request.of_documents is None)
        for sequence in islice(prompts, _PROMPTS):
            if sequence.documents is None and sequence not in plan.failed and not self._hopeless(sequence):
                try:
                    self._begin(sequence, len(queues.running))
                except Exception as raised:
                    plan.method_failed(sequence, raised, "fusion")

    def _hopeless(self, sequence: Sequence) -> bool:
        if self._no_room is None or self._no_room[0] is not sequence:
            return False
        return self.finding.ledger.held_bytes >= self._no_room[1]

    def _begin(self, sequence: Sequence, headroom: int) -> None:
        """``headroom``: pages of each format to leave for the growth of those that run."""
        finding, loads = self.finding, self.finding.loads
        room = Counter(dict.fromkeys(finding.layout.formats, headroom))

        def fits(needs: Counter[PageFormat]) -> bool:
            return finding.ledger.fits(needs + room)

        sequence.documents = finding.documents(sequence)
        if not sequence.documents.load_ahead(lambda kv: loads.load_ahead(kv, fits)):
            sequence.documents.release()
            sequence.documents, self._no_room = None, (sequence, finding.ledger.held_bytes)


def _has_just_started(sequence: Sequence) -> bool:
    """Whether its documents, which may be in RAM, are not held yet: they are when the next step is planned."""
    kv = sequence.kv
    return kv.fuses and not kv.fused and sequence.layerwise is None
