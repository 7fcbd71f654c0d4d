"""From sequences and their rows to plans, also where some layers of a sequence have tables of their own."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from kvloom.arrays import Floats
from kvloom.attend.builder import Rows, Turns, build_plan
from kvloom.attend.lists import MoreLists
from kvloom.attend.plan import Ints, LayerPlan, Plan
from kvloom.engine.kv import SequenceKv
from kvloom.engine.layout import KvLayout
from kvloom.memory.table import PageTable
from kvloom.model.base import Model
from kvloom.segment import SpanSet


@dataclass(frozen=True, slots=True, eq=False)
class Turned:
    """``attend.builder.Turns`` of a layer group. ``angles``: radians by position, float32 values."""

    angles: Floats

    def turns(self, shifts_U: Ints) -> tuple[Floats, Floats]:
        exact = (-shifts_U.astype(np.float32)[:, None] * self.angles).astype(np.float64)
        return np.cos(exact).astype(np.float32), np.sin(exact).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Divided:
    """How a plan is divided where layers below one of ``cuts`` may have tables of their own, or other lists.

    groups: of the plan, each (layer group, its first layer there): those of the lowest layers first.
    """

    layers: tuple[LayerPlan, ...]
    groups: tuple[tuple[int, int], ...]
    turns: tuple[Turns, ...]

    def rows(self, kv: SequenceKv, spans: SpanSet) -> Rows:
        tables: list[PageTable] = []
        more: list[Sequence[MoreLists]] = []
        for group, first in self.groups:
            own = kv.split is not None and first < kv.split.layer
            tables.append(kv.tables[kv.split.tables[group]] if own and kv.split is not None else kv.tables[group])
            more.append(() if own else kv.lists_at(first, group))
        return Rows(spans, tables, more if kv.lists else ())


@dataclass(slots=True, eq=False)
class Planner:
    """Makes the plans of one model. ``turns``: how queries are turned, by layer group."""

    layout: KvLayout
    turns: tuple[Turns, ...]
    _known: dict[tuple[int, ...], Divided] = field(default_factory=dict)

    @staticmethod
    def of(model: Model, layout: KvLayout) -> Planner:
        return Planner(layout, tuple(Turned(angles_of(model, fmt.layers)) for fmt in layout.formats))

    def plan(self, sequences: Sequence[tuple[SequenceKv, SpanSet]]) -> Plan:
        cuts = {cut for kv, _ in sequences if kv.split is not None for cut in kv.cuts}
        if not cuts:
            rows = [Rows(spans, kv.tables, kv.lists) for kv, spans in sequences]
            return build_plan(rows, self.layout.layers, self.turns)
        divided = self.divided(tuple(sorted(cuts)))
        return build_plan([divided.rows(kv, spans) for kv, spans in sequences], divided.layers, divided.turns)

    def divided(self, cuts: tuple[int, ...]) -> Divided:
        """One object for equal cuts: kernels know a plan's layers by their identity."""
        known = self._known.get(cuts)
        if known is None:
            known = self._known[cuts] = self._divide(cuts)
        return known

    def _divide(self, cuts: tuple[int, ...]) -> Divided:
        plain = self.layout.layers
        if not cuts:
            return Divided(plain, tuple((n, fmt.layers[0]) for n, fmt in enumerate(self.layout.formats)), self.turns)
        groups: list[tuple[int, int]] = []
        layers: dict[int, LayerPlan] = {}
        bounds = [0, *cuts, len(plain)]
        for start, stop in itertools.pairwise(bounds):
            for group in dict.fromkeys(plain[layer].group for layer in range(start, stop)):
                mine = [layer for layer in range(start, stop) if plain[layer].group == group]
                for layer in mine:
                    it = plain[layer]
                    layers[layer] = LayerPlan(len(groups), it.slot, it.owns, it.scale)
                groups.append((group, mine[0]))
        return Divided(
            tuple(layers[layer] for layer in range(len(plain))),
            tuple(groups),
            tuple(self.turns[group] for group, _ in groups),
        )


def angles_of(model: Model, layers: Sequence[int]) -> Floats:
    """The angle by position by which the first of these layers turns queries and keys."""
    return model.turn(layers[0]).astype(np.float32)
