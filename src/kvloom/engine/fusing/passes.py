"""Layer passes of a fused prompt: up to the check layer, and over documents."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from kvloom.arrays import Floats
from kvloom.attend.base import Attend
from kvloom.attend.narrow import narrowed
from kvloom.attend.plan import NO_PAGE, Group, Plan, Writes
from kvloom.engine.kv.fused import Overlay
from kvloom.engine.layer_pass import LayerPass
from kvloom.engine.planner import Planner
from kvloom.memory.format import PAGE_TOKENS
from kvloom.model.base import Model
from kvloom.segment import SpanSet


@dataclass(frozen=True, slots=True, eq=False)
class LowerPass(LayerPass):
    """Through all of its layers but the last, of which only keys and values are computed: what goes into that comes
    out. ``asking``: those of its rows whose queries the probes want.
    """

    asking: SpanSet = field(default_factory=SpanSet)

    def through(self, model: Model, attend: Attend, plan: Plan, x_TC: Floats) -> Floats:
        check = self.layers[-1:]
        x_TC = model.run(x_TC, plan, attend, self.layers[:-1])
        nobody = np.empty(0, np.int64)
        model.run(x_TC, plan, attend, check, nobody)
        asking = [position in self.asking for position in plan.positions_T.tolist()]
        if self.probes and any(asking):
            rows_R = np.flatnonzero(asking)
            model.run(x_TC[rows_R], narrowed(plan, rows_R), attend, check, nobody, {0: self.probes})
        return x_TC


@dataclass(frozen=True, slots=True, eq=False)
class RepairPass(LayerPass):
    """``in_tables``: those of its rows that go to page tables; the others have a place in the ``overlay``."""

    in_tables: SpanSet = field(default_factory=SpanSet)
    overlay: Overlay | None = None

    def reserve(self) -> bool:
        return not self.in_tables or self.kv.reserve(self.in_tables, self.groups)

    def plan(self, planner: Planner) -> Plan:
        plan = planner.plan([(self.kv, self.spans)])
        if self.overlay is None:
            return plan
        split = self.kv.split
        places = planner.divided(self.kv.cuts).groups
        groups = [
            self._written(each, group, plan) if split is None or first >= split.layer else each
            for each, (group, first) in zip(plan.groups, places, strict=True)
        ]
        return replace(plan, groups=tuple(groups))

    def _written(self, it: Group, group: int, plan: Plan) -> Group:
        """The plan's group with rows that are written to the overlay, and nowhere else."""
        assert self.overlay is not None
        extent, (rows_R, entries_R) = self.overlay.extents[group], self.overlay.places(group, plan.positions_T)
        pages_T, slots_T = np.full(plan.num_rows, NO_PAGE, np.int32), np.zeros(plan.num_rows, np.int32)
        pages_T[rows_R] = np.array(extent.pages, np.int32)[entries_R // PAGE_TOKENS]
        slots_T[rows_R] = entries_R % PAGE_TOKENS
        others = []
        for each in it.writes:
            row_pages_T = each.row_pages_T.copy()
            row_pages_T[rows_R] = NO_PAGE
            others.append(replace(each, row_pages_T=row_pages_T))
        return replace(it, writes=(*others, Writes(extent.format, pages_T, slots_T)))


@dataclass(frozen=True, slots=True, eq=False)
class FilterPass(RepairPass):
    """Through all of its layers but the last, of which only keys and values are computed: see ``LowerPass``."""

    def through(self, model: Model, attend: Attend, plan: Plan, x_TC: Floats) -> Floats:
        x_TC = model.run(x_TC, plan, attend, self.layers[:-1])
        model.run(x_TC, plan, attend, self.layers[-1:], np.empty(0, np.int64))
        return x_TC
