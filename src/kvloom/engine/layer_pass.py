"""A layer pass: rows of one sequence through some of the layers, as a forward of its own beside the batch of a step.

An ordinary step takes every row through all layers. A sequence that is computed layer by layer (``Layerwise``) has a
pass in a step instead of a chunk, within the same limits of rows and time; its hidden states wait for a later step in
between (``kv.carried``). The others' batch is what it would be without it, and so are their bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from kvloom.arrays import Floats
from kvloom.attend.base import Attend
from kvloom.attend.observe import Probe
from kvloom.attend.plan import Plan
from kvloom.engine.kv import SequenceKv
from kvloom.engine.planner import Planner
from kvloom.model.base import Indices, Model
from kvloom.segment import PageId, SpanSet


@dataclass(frozen=True, slots=True, eq=False)
class LayerPass:
    """The rows at ``spans`` through ``layers``: they read and write the pages of ``kv``, in ``groups`` alone.

    Parameters
    ----------
    groups:
        The layer groups in which these layers own KV, whose pages are reserved before.
    share:
        Of what all layers take for a row, so much do these.
    x_TC:
        What goes into the first of the layers, in order of position; None: that is layer 0, and tokens are embedded.
    rows_R:
        Those whose hidden states are wanted, ascending; None: all.
    """

    kv: SequenceKv
    spans: SpanSet
    layers: range
    groups: tuple[int, ...]
    share: float
    x_TC: Floats | None = None
    probes: Sequence[Probe] = ()
    rows_R: Indices | None = None

    def reserve(self) -> bool:
        """Allocate the pages that it writes to. False: no room."""
        return self.kv.reserve(self.spans, self.groups)

    def plan(self, planner: Planner) -> Plan:
        return planner.plan([(self.kv, self.spans)])

    def run(self, model: Model, attend: Attend, planner: Planner) -> Floats:
        """Hidden states as they come out of the last of the layers, (R, C)."""
        kv, stop = self.kv, self.spans.spans[-1].stop
        for table in kv.tables:
            table.reach(stop)  # other groups may have no pages yet
        plan = self.plan(planner)
        x_TC = self.x_TC
        if x_TC is None:
            x_TC = model.embed(np.array([token for span in self.spans for token in kv.tokens[span.start : span.stop]]))
        return self.through(model, attend, plan, x_TC)

    def through(self, model: Model, attend: Attend, plan: Plan, x_TC: Floats) -> Floats:
        return model.run(x_TC, plan, attend, self.layers, self.rows_R, {0: self.probes} if self.probes else {})


class Layerwise(Protocol):
    """Computes all that a running sequence lacks in layer passes. It is asked for one per step, and told what came."""

    @property
    def left(self) -> SpanSet:
        """Positions that may be computed next, all through the same layers. Empty: it waits for something."""
        ...

    @property
    def share(self) -> float:
        """See ``LayerPass``, of the next one."""
        ...

    def next(self, rows: int) -> LayerPass:
        """The lowest so many of ``left``, at least one."""
        ...

    def took(self, done: LayerPass, x_TC: Floats) -> None:
        """``done`` was computed, and this came out."""
        ...

    @property
    def over(self) -> tuple[SpanSet, Floats] | None:
        """When nothing is missing any more: what was computed, and the last row as it came out of the last layer,
        (1, C).
        """
        ...

    @property
    def texts(self) -> Sequence[SequenceKv]:
        """KV of other texts, which it waits for."""
        ...

    @property
    def resident(self) -> bool:
        """Whether all KV is in the sequence's tables when it is over. Otherwise whoever began this lets the sequence
        wait again, and it computes nothing until then.
        """
        ...

    def release(self) -> None:
        """Give up what it holds beside the sequence's KV."""
        ...

    def abandon(self) -> None:
        """As ``release``, after a failure, whatever the state."""
        ...

    def holdings(self) -> Iterator[tuple[PageId, str]]:
        """(page, owner) of all that it holds beside the sequence's KV."""
        ...
