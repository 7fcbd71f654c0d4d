"""Bands: a prompt that has no room for all of its KV begins with room for that of one band of layers.

Requests wait for memory far longer than they are computed when contexts are long. Here the first in the queue need not
wait for pages in all layers: it is computed band after band, what is complete goes to a tier (``engine.banded``), and
its first token is sent. Then it waits again, before all others, until there is room for all of its KV, finds what is
still in RAM, and loads the rest like anybody else.

Source: LayerKV (arXiv 2410.00428). There a decoding step may read layers from the host, again in every step; here none
does: the first token comes early, those after it when there is room. Nobody is begun so unless

- answers that stream have time to spare for it, by the limits of ``PrefillBudget``;
- the tier can take all of it, and takes a band in less time than the next one is computed in (``layers_that_stay``);
- to load it again is faster than to compute it.

One prompt at a time, so that the order of arrival is kept: nobody behind it begins meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from kvloom.engine.banded import BandedPrefill, Progress
from kvloom.engine.kv import Carried
from kvloom.engine.layout import KvLayout
from kvloom.engine.request import Sequence
from kvloom.engine.scheduler.coverage import Coverage, cover
from kvloom.engine.scheduler.explanation import explain
from kvloom.engine.scheduler.match import Match
from kvloom.engine.scheduler.state import Queues, StepPlan
from kvloom.engine.sweep import Sweep
from kvloom.engine.tiers import Level, Tiers
from kvloom.memory.ledger import Ledger
from kvloom.policy.cost_estimate import CostEstimate
from kvloom.policy.tier_cost import layers_that_stay

_WORTH = 0.9
"""Loading is to take at most this part of the time of computing: see ``tiers.choose``."""


@dataclass
class Bands:
    """A stage that sees the prompt under way through, and begins others when ``Admit`` has no room for them.

    ``width``: of hidden states; 0: there are none to carry, as in a simulation, and nobody begins so. ``begun``,
    ``given_up``: how often.
    """

    ledger: Ledger
    layout: KvLayout
    tiers: Tiers
    prefill: CostEstimate
    width: int
    begun: int = 0
    given_up: int = 0
    _sequence: Sequence | None = field(default=None, init=False)

    def run(self, queues: Queues, plan: StepPlan) -> None:
        sequence, banded = self._sequence, self._under_way
        if sequence is None or banded is None:
            return
        progress = banded.progress(len(queues.running) - 1)
        if progress is not Progress.GOES_ON:
            self.given_up += progress is Progress.GIVEN_UP
            queues.wait_again(sequence)

    @property
    def busy(self) -> bool:
        """Whether a prompt is under way."""
        return self._under_way is not None

    def begin(self, sequence: Sequence, found: Match, queues: Queues, plan: StepPlan) -> Match | None:
        """Begin a prompt that has no room as it was ``found``. The match with which it began; None: it has to wait, and
        nothing is taken.
        """
        if not self.width or len(self.layout.kv_map.bands) == 1 or self.busy or found.loads or not _is_plain(sequence):
            return None
        if not plan.has_time(sequence, 1 / len(self.layout.kv_map.bands)):
            return None
        kv = sequence.kv
        covered = cover(kv, self.ledger.index, self.prefill.proportions, tails=False)
        level = self._worthwhile(sequence, covered)
        if level is None or not self._start(sequence, covered, level, len(queues.running)):
            return None
        sequence.by_bands, self._sequence, self.begun = True, sequence, self.begun + 1
        return Match(covered.missing, covered.hits, misses=explain(kv, self.ledger.index, covered, self.tiers))

    # -- inside ----------------------------------------------------------------------------------------------------

    @property
    def _under_way(self) -> BandedPrefill | None:
        layerwise = None if self._sequence is None else self._sequence.layerwise
        return layerwise if isinstance(layerwise, BandedPrefill) else None

    def _worthwhile(self, sequence: Sequence, covered: Coverage) -> Level | None:
        """Where its KV could go, if that pays."""
        cost, bands = self.prefill.cost, len(self.layout.kv_map.bands)
        if cost is None:
            return None
        prefill_s = cost.computing(covered.missing)
        tokens = len(sequence.kv.tokens)
        pages = [self.layout.pages_for(group, tokens) for group in range(len(self.layout.formats))]
        sizes = [fmt.page_bytes for fmt in self.layout.formats]
        level = self.tiers.to_offload(sum(pages), sum(count * size for count, size in zip(pages, sizes, strict=True)))
        if level is None:
            return None
        leave, back = (
            sum(count * rate.cost.seconds(size) for count, size in zip(pages, sizes, strict=True))
            for rate in (level.offload_rate, level.rate)
        )
        pays = layers_that_stay(prefill_s, leave / bands, bands) <= 1 and back <= _WORTH * prefill_s
        return level if pays else None

    def _start(self, sequence: Sequence, covered: Coverage, level: Level, others: int) -> bool:
        """False: no room, and nothing is taken."""
        kv, missing, bands = sequence.kv, covered.missing, self.layout.kv_map.bands
        for hit in covered.hits:
            kv.adopt(hit.group, hit.index, hit.page)
        carried = Carried.take(self.ledger, kv.owner, len(missing), self.width)
        if carried is not None:
            sweep = Sweep(kv, self.layout.kv_map, bands, missing, carried)
            banded = BandedPrefill(self.layout, self.tiers, level, sweep)
            if banded.reserve(others):
                kv.start(missing)
                sequence.layerwise = banded
                return True
            carried.release()
        kv.release()
        return False


def _is_plain(sequence: Sequence) -> bool:
    """A prompt of which nothing is asked but an answer, and that was not begun so before."""
    request, kv = sequence.request, sequence.kv
    if sequence.by_bands or sequence.num_generated or request.params.n > 1 or sequence.wants_prompt_rows:
        return False
    cache = request.cache
    return not (kv.watch is not None or kv.boundary or kv.fuses or cache.lossy) and cache.read and cache.write
