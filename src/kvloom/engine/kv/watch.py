"""What a scorer needs to see of a context while it is computed: of its attention and of its hidden states."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from kvloom.arrays import Floats
from kvloom.attend.observe import Observation, Probe, QueryRecord, Reduce, Tally
from kvloom.engine.kv.learned_digest import learned_digest
from kvloom.errors import InternalError, RequestError
from kvloom.model.base import Model
from kvloom.model.kv_map import LayerGroup
from kvloom.policy.compression import Compression
from kvloom.policy.compression.base import Measured, QueryShape
from kvloom.policy.compression.demote import structure_of
from kvloom.policy.compression.needs import (
    After,
    Attention,
    Digest,
    Hidden,
    LearnedMaps,
    Need,
    Queries,
    Said,
    rows_of,
)
from kvloom.segment import Span, SpanSet


@dataclass(slots=True, eq=False)
class Watch:
    """Probes of one sequence from position ``start`` to ``stop``. They begin empty, and again after ``restart``.

    What is before ``start`` is not looked at. ``repeats``: texts that are to be computed after the context, one at a
    time from position ``stop`` on, to be seen. ``says``: instead of them, how many tokens the model is to go on with
    there by itself. ``text_of``: a token's text, where that is looked at. Its memory: by layer and KV head 8 bytes per
    entry for ``Attention``; all ``Queries``; all digests of ``Hidden``.
    """

    model: Model
    needs: frozenset[Need]
    stop: int
    repeats: tuple[tuple[int, ...], ...] = ()
    start: int = 0
    text_of: Callable[[int], str] | None = None
    says: int = field(init=False)
    rows: SpanSet = field(init=False)
    hidden: Digest | None = field(init=False)
    _tallies: dict[Attention, tuple[Tally, ...]] = field(default_factory=dict, init=False)
    _records: dict[Queries, tuple[QueryRecord, ...]] = field(default_factory=dict, init=False)
    _digests: dict[int, Floats] = field(default_factory=dict, init=False)
    _fault: Exception | None = field(default=None, init=False)
    _structure_S: npt.NDArray[np.bool_] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        rows = [need.rows for need in self.needs if isinstance(need, Attention)]
        self.says = next((each.count for each in rows if isinstance(each, Said)), 0)
        self.rows = self._moved(rows_of(self.needs, self.stop - self.start))
        weights = self.model.weights_id
        made = next((need.digest_for(weights) for need in self.needs if isinstance(need, Hidden)), None)
        self.hidden = learned_digest(made) if isinstance(made, LearnedMaps) else made

    @staticmethod
    def of(
        model: Model, compression: Compression, context: Sequence[int], room: int, text_of: Callable[[int], str]
    ) -> Watch:
        """For a context after which ``room`` tokens have room.

        Raises RequestError when that is too little for what the method wants to compute there, or when the method has
        nothing to look at hidden states of this model with.
        """
        needs, repeats = compression.needs, list[list[int]]()
        for need in needs:
            if isinstance(need, Attention) and isinstance(need.rows, After) and context:
                texts = need.rows.texts(context, room)
                if texts is None:
                    raise RequestError(
                        f"`{compression.name}` reads on after a context of {len(context)} tokens; "
                        f"there is room for {room}",
                        hint="a shorter context, or more kv_bytes",
                        param="compression",
                    )
                repeats = texts
        return Watch(model, needs, len(context), tuple(map(tuple, repeats)), text_of=text_of)

    @staticmethod
    def of_text(model: Model, compression: Compression, stop: int, text_of: Callable[[int], str]) -> Watch:
        """For the beginning of a text of which not all is known. Raises RequestError when the method reads on there."""
        needs = compression.needs
        if any(isinstance(need, Attention) and isinstance(need.rows, After) for need in needs):
            raise RequestError(
                f"`{compression.name}` reads on after a context and cannot keep a text within a budget",
                hint="a ratio, or a method that does not",
                param="compression",
            )
        return Watch(model, needs, stop, text_of=text_of)

    def of_block(self, start: int, stop: int) -> Watch:
        """To see the same of other positions, which nothing is repeated of."""
        return Watch(self.model, self.needs, stop, start=start, text_of=self.text_of)

    def copy(self) -> Watch:
        """To see from now on what another sequence does from here."""
        copied = Watch(self.model, self.needs, self.stop, self.repeats, self.start, self.text_of)
        copied._tallies, copied._records = deepcopy(self._tallies), deepcopy(self._records)
        copied._digests, copied._fault = deepcopy(self._digests), self._fault
        return copied

    def restart(self) -> None:
        """Nothing of the context has been computed."""
        self._tallies, self._records, self._digests, self._fault = {}, {}, {}, None

    @property
    def probes(self) -> Sequence[Probe]:
        """For every step that computes some of ``rows``: by layer group where attention or queries are needed."""
        if not self._tallies and not self._records:
            for need in self.needs:
                if isinstance(need, Attention):
                    self._tallies[need] = tuple(self._tally(need, group) for group in self._groups)
                elif isinstance(need, Queries):
                    self._records[need] = tuple(self._record(need, group) for group in self._groups)
        tallies = [tally for by_group in self._tallies.values() for tally in by_group]
        return [*tallies, *(record for by_group in self._records.values() for record in by_group)]

    def see(self, layer: int, positions: SpanSet, x_RC: Floats) -> None:
        """Take note of hidden states that go into a layer, at these positions in their order.

        What a digest raises is kept for ``measured``: the step goes on, as it is others' too.
        """
        repeated = positions.spans[0].start >= self.stop
        if repeated or self._fault is not None or self.model.kv_map.layers[layer].owner != layer:
            return
        try:
            self._digest(layer, positions, x_RC)
        except Exception as raised:
            self._fault = raised

    def shape(self, layer: int) -> QueryShape:
        """What the queries are like that read the KV of ``layer``."""
        kv_map = self.model.kv_map
        readers = sum(each.owner == layer for each in kv_map.layers)
        group = self.model.query_heads * readers // kv_map.layers[layer].heads
        return QueryShape(group, self.model.turn(layer), kv_map.layers[layer].scale)

    def measured(self, layer: int, needs: frozenset[Need]) -> Measured:
        """What was seen of a layer that owns KV, for ``needs``, which are among those of the watch.

        Raises whatever a digest raised, and InternalError when not all was seen.
        """
        if self._fault is not None:
            raise self._fault
        attention_KS = q_RHD = positions_R = hidden_SN = None
        place, slot = self.model.kv_map.place(layer)
        for need in needs:
            match need:
                case Attention():
                    attention_KS = self._attention(need, place, layer)
                case Queries():
                    q_RHD, positions_R = self._queries(need, place, slot)
                case Hidden():
                    hidden_SN = self._digested(place, layer)
        return Measured(attention_KS, q_RHD, positions_R, hidden_SN)

    def structure(self, tokens: Sequence[int]) -> npt.NDArray[np.bool_]:
        """Of the first ``stop`` tokens: see ``structure_of``."""
        if self._structure_S is None:
            if self.text_of is None:
                raise InternalError("nobody has told the texts of tokens that a method looks at")
            self._structure_S = structure_of(tokens[: self.stop], self.text_of)
        return self._structure_S

    # -- inside ----------------------------------------------------------------------------------------------------

    def _digest(self, layer: int, positions: SpanSet, x_RC: Floats) -> None:
        assert self.hidden is not None
        x_RC.flags.writeable = False  # of this view alone
        found_RN = np.asarray(self.hidden(layer, x_RC))
        if found_RN.ndim != 2 or len(found_RN) != len(x_RC):
            raise RequestError(f"a digest must make a row of each of {len(x_RC)} hidden states")
        into_SN = self._digests.get(layer)
        if into_SN is None:
            shape = self.stop - self.start, found_RN.shape[1]
            into_SN = self._digests[layer] = np.full(shape, np.nan, np.float32)
        into_SN[_places(positions) - self.start] = found_RN

    @property
    def _groups(self) -> tuple[LayerGroup, ...]:
        return self.model.kv_map.groups

    def _tally(self, need: Attention, group: LayerGroup) -> Tally:
        # one column at least, even in a layer whose rows only see themselves
        columns = Span(min(self._first(group), self.stop - 1), self.stop)
        observation = Observation(self._rows(need), columns, Reduce(need.reduce))
        heads = self.model.query_heads if need.by_query_head else group.heads
        return Tally.of(observation, self._readers(group), heads)

    def _rows(self, need: Attention) -> SpanSet:
        if not isinstance(need.rows, After):
            return self._moved(need.rows.of(self.stop - self.start))
        longest = max(map(len, self.repeats), default=self.says)
        return SpanSet((Span(self.stop, self.stop + longest),)) if longest else SpanSet()

    def _record(self, need: Queries, group: LayerGroup) -> QueryRecord:
        rows = self._moved(need.rows.of(self.stop - self.start))
        return QueryRecord.of(rows, group.layers, self.model.query_heads, group.k_dim)

    def _readers(self, group: LayerGroup) -> list[int]:
        return [layer for layer, kv in enumerate(self.model.kv_map.layers) if kv.owner in group.layers]

    def _attention(self, need: Attention, place: int, layer: int) -> Floats:
        """Of all layers that read the KV of ``layer``."""
        _check(need in self._tallies, layer)
        tally, kv_map = self._tallies[need][place], self.model.kv_map
        mine = [n for n, reader in enumerate(tally.layers) if kv_map.layers[reader].owner == layer]
        wanted = len(self.rows & tally.rows) or sum(map(len, self.repeats)) or self.says
        _check(bool((tally.counted_L[mine] == wanted).all()), layer)
        running_LKS = tally.running_LNS[mine]
        found_KS = running_LKS.sum(0) if tally.observation.reduce is Reduce.SUM else running_LKS.max(0)
        skipped = self._first(self._groups[place]) - tally.observation.columns.start
        result_KS: Floats = found_KS[:, skipped:].astype(np.float32)
        return result_KS

    def _queries(self, need: Queries, place: int, slot: int) -> tuple[Floats, npt.NDArray[np.int64]]:
        _check(need in self._records, self._groups[place].layers[slot])
        record = self._records[need][place]
        q_RHD = record.queries_LRHD[slot]
        _check(not np.isnan(q_RHD).any(), self._groups[place].layers[slot])
        return q_RHD, _places(record.rows)

    def _digested(self, place: int, layer: int) -> Floats:
        _check(layer in self._digests, layer)
        found_SN = self._digests[layer]
        _check(not np.isnan(found_SN[:, :1]).any(), layer)
        return found_SN[self._first(self._groups[place]) - self.start :]

    def _first(self, group: LayerGroup) -> int:
        """The first position that a row at ``stop`` sees, of those that are looked at."""
        return self.start if group.window is None else max(self.start, self.stop - group.window + 1)

    def _moved(self, rows: SpanSet) -> SpanSet:
        """Rows of a context, where it begins at ``start``."""
        return SpanSet(tuple(Span(span.start + self.start, span.stop + self.start) for span in rows))


Watched = tuple[Watch, SpanSet, slice]
"""Who looks at hidden states, of which positions, and the rows of the step that compute them."""


def _places(positions: SpanSet) -> npt.NDArray[np.int64]:
    return np.concatenate([np.zeros(0, np.int64), *(np.arange(span.start, span.stop) for span in positions)])


def _check(seen: bool, layer: int) -> None:
    if not seen:
        raise InternalError(f"not all rows of layer {layer} that a method needs were seen, or some twice")
