"""What the selector of a fused prompt sees of it: by probes while it is computed, and in pages afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from kvloom.attend.observe import Observation, Probe, QueryRecord, Reduce, Tally
from kvloom.engine.fusing.stored import Positions, StoredRows
from kvloom.engine.kv import SequenceKv
from kvloom.engine.kv.fused import Overlay, Read
from kvloom.engine.layout import KvLayout
from kvloom.policy.fusion import Checked, Fusion, Need, View
from kvloom.segment import Span, SpanSet


@dataclass(slots=True, eq=False)
class Sight:
    """``start``, ``question``, ``stop``: positions at which documents, the question and the answer begin.

    ``query_heads``: of the model. ``threads``: how many cores to use at most. ``probes``: for passes that compute the
    question.
    """

    kv: SequenceKv
    layout: KvLayout
    fusion: Fusion
    reads: Sequence[Read]
    start: int
    question: int
    stop: int
    query_heads: int
    threads: int
    probes: list[Probe] = field(default_factory=list)

    def ask_for_queries(self) -> None:
        """Of the check layer, if the selector wants them."""
        if Need.CHECKED_QUERIES in self.fusion.needs:
            layer = self.fusion.check_layer
            dim = self.layout.place(layer)[0].k_dim
            self.probes.append(QueryRecord.of(self._rows, [layer], self.query_heads, dim))

    def ask_for_attention(self) -> bool:
        """That the question pays to old KV. False: the selector does not want to see it."""
        if not self.fusion.needs & {Need.LAST_ATTENTION, Need.ALL_ATTENTION}:
            return False
        layers = self._seeing if Need.ALL_ATTENTION in self.fusion.needs else self._seeing[-1:]
        between = Observation(self._rows, Span(self.start, self.question), Reduce.SUM)
        self.probes.append(Tally.of(between, layers, self.layout.formats[0].heads))
        return True

    def view(self) -> View:
        """When all that was asked for has been seen."""
        checked = self._checked() if self.fusion.exact_layers else None
        tallies = [probe for probe in self.probes if isinstance(probe, Tally)]
        attention_LS = tallies[0].result().sum(axis=1) if tallies else None
        documents = tuple(read.span for read in self.reads)
        return View(self.stop, self.question, documents, checked, attention_LS, self.threads, self.start)

    def narrowed(self, number: int, layer: int, rows_R: Positions, overlay: Overlay) -> Positions:
        """Which of these rows go on behind filter ``number``, by what was computed again in ``layer``."""
        values_RKD = self._stored.again(layer, overlay, rows_R)
        old_RKD = self._stored.old_values(layer, rows_R, values_RKD)
        return self.fusion.narrowed(number, self.question, rows_R, values_RKD, old_RKD)

    def _checked(self) -> Checked:
        layer, layout = self.fusion.check_layer, self.layout
        queries = [probe.queries_LRHD[0] for probe in self.probes if isinstance(probe, QueryRecord)]
        dense, scale, places_N = layout.place(layer)[0], layout.layers[layer].scale, np.arange(self.start, self.stop)
        keys_NKD = self._stored.computed(layer, places_N, keys=True)
        seen = queries[0] if queries else np.empty((0, self.query_heads, dense.k_dim), np.float32)
        if Need.CHECKED_VALUES not in self.fusion.needs:
            nothing = np.empty((self.question - self.start, dense.heads, 0), np.float32)
            return Checked(scale, seen, keys_NKD, nothing, nothing)
        between_S = places_N[: self.question - self.start]
        values_SKD = self._stored.computed(layer, between_S, keys=False)
        old_SKD = self._stored.old_values(layer, between_S, values_SKD)
        return Checked(scale, seen, keys_NKD, values_SKD, old_SKD)

    @property
    def _stored(self) -> StoredRows:
        return StoredRows(self.kv, self.layout, self.reads, self.threads)

    @property
    def _rows(self) -> SpanSet:
        return SpanSet((Span(self.question, self.stop),))

    @property
    def _seeing(self) -> list[int]:
        """The layers from the check layer on in which the question sees all documents; all of them, if none does."""
        windows, layers = self.layout.windows, range(self.fusion.exact_layers, len(self.layout.layers))
        return [each for each in layers if windows[self.layout.place(each)[1]] is None] or list(layers)
