"""Sweep: positions of a sequence through one range of layers after another, each range in chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from kvloom.arrays import Floats
from kvloom.attend.observe import Probe
from kvloom.engine.kv import Carried, SequenceKv
from kvloom.engine.layer_pass import LayerPass
from kvloom.errors import InternalError
from kvloom.model.kv_map import KvMap
from kvloom.segment import PageId, SpanSet


@dataclass(slots=True, eq=False)
class Sweep:
    """Implements ``Layerwise``.

        positions    |--- through layers 0..b ---|--- through 0..a, left ---|        a range a..b under way

    Parameters
    ----------
    ranges:
        Contiguous, all layers together. Where a layer group has layers in several of them, its pages are needed from
        the first to the last.
    positions:
        All that is missing. The last is that of the last token.
    carried:
        Room for as many rows.
    between:
        Called when all are through a range that is not the last, with its number and the positions that went through:
        says which of them go on, the last one among them. In later layers, the others' KV is the caller's affair.

    Pages must be there or be reserved chunk by chunk (``LayerPass.groups``); those of a layer group with a window are
    not given back before all is over.
    """

    kv: SequenceKv
    kv_map: KvMap
    ranges: Sequence[range]
    positions: SpanSet
    carried: Carried
    between: Callable[[int, SpanSet], SpanSet] = lambda number, positions: positions
    probes: Sequence[Probe] = ()
    number: int = field(default=0, init=False)
    going: SpanSet = field(init=False)
    left: SpanSet = field(init=False)
    over: tuple[SpanSet, Floats] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        layers = [layer for each in self.ranges for layer in each]
        if layers != list(range(len(self.kv_map.layers))) or not all(self.ranges):
            raise InternalError(f"{list(self.ranges)} are not all layers, one after another")
        if len(self.positions) > self.carried.rows or not self.positions:
            raise InternalError(f"{self.positions} with room for {self.carried.rows} rows")
        self.going = self.left = self.positions

    @property
    def share(self) -> float:
        return len(self.ranges[self.number]) / len(self.kv_map.layers)

    @property
    def resident(self) -> bool:
        return True

    def next(self, rows: int) -> LayerPass:
        spans, layers = self.left.first(rows), self.ranges[self.number]
        x_TC = self.carried.get(self._reached, len(spans)) if layers.start else None
        owning = {layer for layer in layers if self.kv_map.layers[layer].owner == layer}
        groups = tuple(n for n, group in enumerate(self.kv_map.groups) if owning.intersection(group.layers))
        rows_R = np.array([len(spans) - 1]) if self._is_last else None
        return LayerPass(self.kv, spans, layers, groups, self.share, x_TC, self.probes, rows_R)

    def took(self, done: LayerPass, x_TC: Floats) -> None:
        if not self._is_last:
            self.carried.put(self._reached, x_TC)
        complete = [n for n in done.groups if self.kv_map.groups[n].layers[-1] in done.layers]
        self.kv.written_in(complete, done.spans)
        self.left = self.left - done.spans
        if not self.left and self._is_last:
            self.over = self.positions, x_TC[-1:]
        elif not self.left:
            self._next_range()

    @property
    def texts(self) -> Sequence[SequenceKv]:
        return ()

    def release(self) -> None:
        self.carried.release()

    def abandon(self) -> None:
        self.carried.abandon()

    def holdings(self) -> Iterator[tuple[PageId, str]]:
        yield from self.carried.holdings()

    @property
    def _is_last(self) -> bool:
        return self.number == len(self.ranges) - 1

    @property
    def _reached(self) -> int:
        """Rows that are through the range under way."""
        return len(self.going) - len(self.left)

    def _next_range(self) -> None:
        went, going = self.going, self.between(self.number, self.going)
        if going != went:
            if going - went or not going or going.spans[-1].stop != went.spans[-1].stop:
                raise InternalError(f"of {went}, {going} cannot go on")
            positions = np.concatenate([np.arange(span.start, span.stop) for span in went])
            stays = np.array([position in going for position in positions.tolist()])
            self.carried.keep(np.flatnonzero(stays))
        self.going = self.left = going
        self.number += 1
