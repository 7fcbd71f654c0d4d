"""Fusing: a prompt over documents that were computed elsewhere, from look-up to the last row of the question.

    documents   those whose KV is not there are computed alone, for others too, and compressed if only a part of it is
                to be read; parts of an earlier context are not
    lower       all rows through the layers below the check layer, and keys and values of that; if the selector wants
                to see it
    survey      the question over old KV through all layers from there on, if the selector wants to see its attention
    overlay     the selector says which rows are computed again, and these get room of their own
    filter      those rows and the question up to the next layer, and keys and values of that, by which fewer rows go
                on; as often as the selector wants
    repair      those rows and the question through the same layers

Source: A^3 (arXiv 2511.17560) and CacheBlend (arXiv 2405.16444), for any selector. Rows see all entries before them,
computed again or not, at their positions in the prompt.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from kvloom.arrays import Floats
from kvloom.engine.fusing.passes import FilterPass, LowerPass, RepairPass
from kvloom.engine.fusing.sight import Sight
from kvloom.engine.fusing.stored import Positions
from kvloom.engine.kv import Carried, Documents, SequenceKv
from kvloom.engine.kv.fused import (
    Again,
    Overlay,
    forget_passed,
    lower_tables,
    overlay_format,
    read_documents,
    split_below,
)
from kvloom.engine.layer_pass import LayerPass
from kvloom.engine.outputs import FusedPrompt
from kvloom.engine.planner import Planner
from kvloom.engine.request import Sequence as RequestSequence
from kvloom.memory.ledger import Extent
from kvloom.model.base import Model
from kvloom.policy.compression import text_of as compression_text
from kvloom.policy.cost_estimate import CostEstimate
from kvloom.policy.fusion import Fusion, text_of
from kvloom.policy.fusion.worth import CHECK_SHARE
from kvloom.segment import PageId, Span, SpanSet


class Phase(enum.Enum):
    DOCUMENTS = "documents"
    LOWER = "lower"
    SURVEY = "survey"
    OVERLAY = "overlay"
    FILTER = "filter"
    REPAIR = "repair"


@dataclass(slots=True, eq=False)
class Fusing:
    """Implements ``Layerwise`` for a sequence that goes on over documents when its prefix is there.

    ``coming``: its documents, until all are there. ``prefill``: what computing takes. ``worth``: whether a fusion of
    what is there of them takes less time than computing the prompt. ``documents``: what is there of them. ``start``,
    ``question``, ``stop``: positions at which documents, the question and the answer begin. ``cut``: so many layers are
    computed for all rows. ``in_vain``: too little is there, and the prompt is computed as ever.
    """

    sequence: RequestSequence
    model: Model
    planner: Planner
    coming: Documents
    prefill: CostEstimate
    worth: Callable[[Sequence[Span]], bool]
    threads: int
    phase: Phase = Phase.DOCUMENTS
    over: tuple[SpanSet, Floats] | None = None
    kv: SequenceKv = field(init=False)
    fusion: Fusion = field(init=False)
    documents: tuple[Span, ...] = field(init=False)
    tokens: int = field(init=False)
    start: int = field(init=False)
    question: int = field(init=False)
    stop: int = field(init=False)
    cut: int = field(init=False)
    in_vain: bool = False
    _left: SpanSet = field(default_factory=SpanSet)
    _carried: Carried | None = None
    _sight: Sight = field(init=False)
    _chosen: Positions = field(default_factory=lambda: np.empty(0, np.int64))
    _rows: SpanSet = field(default_factory=SpanSet)
    _again: list[Again] = field(default_factory=list)
    _filtered: int = 0
    _extents: list[Extent] = field(default_factory=list)
    _overlay: Overlay | None = None

    def __post_init__(self) -> None:
        fusion = self.sequence.request.fusion
        assert fusion is not None
        self.kv, self.fusion = self.sequence.kv, fusion
        self.coming.start()
        self.documents = self.coming.spans
        self.tokens = sum(map(len, self.documents))
        self.start, self.question = self.documents[0].start, self.documents[-1].stop
        self.stop, self.cut = self.sequence.num_prompt, fusion.exact_layers

    # -- what the scheduler asks -----------------------------------------------------------------------------------

    def advance(self) -> bool:
        """Take the room that the next pass needs beside its pages. False: there is none."""
        if self.phase is Phase.DOCUMENTS:
            if not self.kv.fused:
                self.coming.look_up()
                if not self.coming.make_room():
                    return False
                if not self.kv.prefix_done or not self.coming.complete:
                    return True
                if not self._read():
                    self.in_vain = True
                    return True
            if not self._begin():
                return False
        return self.phase is not Phase.OVERLAY or self._make_overlay()

    @property
    def left(self) -> SpanSet:
        if self.phase is Phase.DOCUMENTS:
            document = self.coming.computing
            return SpanSet() if document is None else document.left
        return self._left

    @property
    def share(self) -> float:
        left_out = 1 - CHECK_SHARE if self.phase in (Phase.LOWER, Phase.FILTER) else 0.0
        return (len(self._layers) - left_out) / self._all

    def next(self, rows: int) -> LayerPass:
        spans, layers = self.left.first(rows), self._layers
        if self.phase is Phase.DOCUMENTS:
            document = self.coming.computing
            assert document is not None
            return LayerPass(document.kv, spans, layers, tuple(range(len(document.kv.tables))), self.share)
        if self.phase is Phase.LOWER:
            assert self.kv.split is not None
            groups = tuple(self.kv.split.tables.values())
            asking = spans & self._question
            return LowerPass(self.kv, spans, layers, groups, self.share, None, self._sight.probes, asking=asking)
        in_tables = spans & self._question
        groups = tuple(range(len(self.kv.scores)))
        kind, last = (FilterPass, None) if self.phase is Phase.FILTER else (RepairPass, np.array([len(spans) - 1]))
        return kind(
            self.kv,
            spans,
            layers,
            groups,
            self.share,
            self._hidden(spans),
            self._sight.probes,
            last,
            in_tables,
            self._overlay,
        )

    def took(self, done: LayerPass, x_TC: Floats) -> None:
        if self.phase is Phase.DOCUMENTS:
            done.kv.written(done.spans)
            done.kv.publish(len(done.kv.tokens))
            if not done.kv.missing and not done.kv.pending:
                done.kv.keep_tail()
            self.sequence.request.metrics.computed_tokens += len(done.spans)
            return
        if self.phase in (Phase.LOWER, Phase.FILTER):
            self._carry(done.spans, x_TC)
        self._left = self._left - done.spans
        if self._left:
            return
        if self.phase is Phase.LOWER:
            self._after_lower()
        elif self.phase is Phase.SURVEY:
            self._choose()
        elif self.phase is Phase.FILTER:
            self._narrow()
        else:
            self._finish(x_TC)

    @property
    def resident(self) -> bool:
        return True

    @property
    def texts(self) -> Sequence[SequenceKv]:
        return self.coming.texts

    # -- what it holds ---------------------------------------------------------------------------------------------

    def release(self) -> None:
        self.coming.release()
        if self._carried is not None:
            self._carried.release()
            self._carried = None

    def abandon(self) -> None:
        self.coming.abandon()
        if self._carried is not None:
            self._carried.abandon()
            self._carried = None

    def holdings(self) -> Iterator[tuple[PageId, str]]:
        yield from self.coming.holdings()
        if self._carried is not None:
            yield from self._carried.holdings()

    # -- phases ----------------------------------------------------------------------------------------------------

    def _read(self) -> bool:
        """All that is coming of the documents is there: read it from now on. False: it is too little."""
        kv, layout = self.kv, self.planner.layout
        reads = self.coming.reads()
        spans = tuple(read.span for read in reads)
        if not spans or (spans != self.documents and not self.worth(spans)):
            return False
        self.documents, self.question = spans, spans[-1].stop
        places = self.start, self.question, self.stop
        self._sight = Sight(kv, layout, self.fusion, reads, *places, self.model.query_heads, self.threads)
        split = split_below(layout, self.cut)
        held = [
            {page: size for read in reads for page, size in read.held(group, fmt).items()}
            for group, fmt in enumerate(layout.formats)
        ]
        lower = () if split is None else lower_tables(layout, split)
        kv.begin_fusion(Span(self.start, self.question), held, split, lower)
        self.coming.release()
        return True

    def _begin(self) -> bool:
        """Take room for what is computed first. False: there is none."""
        kv = self.kv
        if not kv.copy_prefix():
            return False
        if self.cut:
            rows = self.stop - self.start
            self._carried = Carried.take(kv.ledger, kv.owner, rows, self.model.width)
            if self._carried is None:
                return False
            self.phase, self._left = Phase.LOWER, SpanSet((Span(self.start, self.stop),))
            self._sight.ask_for_queries()
        else:
            self._after_lower()
        return True

    def _after_lower(self) -> None:
        if self._sight.ask_for_attention():
            read_documents(self.kv, self._sight.reads)
            self.phase, self._left = Phase.SURVEY, self._question
        else:
            self._choose()

    def _choose(self) -> None:
        sight = self._sight
        if (cost := self.prefill.cost) is not None:
            computing_s = cost.block(self.start, self.question - self.start)
            sight.fusion = sight.fusion.after_loading(self.coming.loading_s, computing_s)
        self._go_on(sight.fusion.rows(sight.view()))
        sight.probes = []
        self.phase = Phase.OVERLAY

    def _go_on(self, rows: Positions) -> None:
        """These rows of documents are computed in the layers that come next."""
        chosen = SpanSet.of(Span(row, row + 1) for row in rows.tolist())
        documents = SpanSet.of(self.documents)
        self._chosen = rows
        self._rows = chosen | (SpanSet((Span(self.start, self.question),)) - documents)
        self._again.append(Again(_positions(self._rows)))

    def _narrow(self) -> None:
        """By the values of the layer that was computed last."""
        assert self._overlay is not None
        layer = self.cut + self._filtered
        self._again[-1] = replace(self._again[-1], stop=layer + 1)
        self._go_on(self._sight.narrowed(self._filtered, layer, self._chosen, self._overlay))
        self._filtered += 1
        read_documents(self.kv, self._sight.reads, self._overlay, self._again)
        self._repair()

    def _repair(self) -> None:
        """What comes next: a filter, if one is left and there is anything to filter."""
        self._left = self._rows | self._question
        if self._filtered < self.fusion.filters and self._chosen.size:
            self.phase = Phase.FILTER
            return
        self.phase, metrics = Phase.REPAIR, self.sequence.request.metrics
        if metrics.fused is None:  # who begins again finds what it computed before
            compression = self.sequence.request.of_documents
            left = None if compression is None else compression_text(compression)
            metrics.fused = FusedPrompt(
                text_of(self._sight.fusion), self.tokens, self.coming.found, len(self._chosen), left
            )

    def _make_overlay(self) -> bool:
        count = Overlay.pages_for(len(self._rows))
        for fmt in self.planner.layout.formats[len(self._extents) :] if count else ():
            extent = self.kv.take(overlay_format(fmt), count)
            if extent is None:
                return False
            self._extents.append(extent)
        if count:
            self._overlay = Overlay(_positions(self._rows), tuple(self._extents))
            self._overlay.label(self.kv)
        read_documents(self.kv, self._sight.reads, self._overlay, self._again)
        self._repair()
        return True

    def _finish(self, last_1C: Floats) -> None:
        """What is only read of the documents is there; the rest is what was computed."""
        forget_passed(self.kv, self._sight.reads, self._overlay, self._again, self.stop)
        self.kv.written(SpanSet((Span(self.start, self.question),)) - self._rows)
        self.over = self._rows | self._question, last_1C

    # -- where it is -----------------------------------------------------------------------------------------------

    @property
    def _all(self) -> int:
        return len(self.planner.layout.layers)

    @property
    def _layers(self) -> range:
        if self.phase is Phase.DOCUMENTS:
            return range(self._all)
        if self.phase is Phase.LOWER:
            return range(self.cut)
        first = max(0, self.cut - 1) + self._filtered
        return range(first, first + 2 if self.phase is Phase.FILTER else self._all)

    @property
    def _question(self) -> SpanSet:
        return SpanSet((Span(self.question, self.stop),))

    def _carry(self, spans: SpanSet, x_TC: Floats) -> None:
        """What goes into the next layer."""
        assert self._carried is not None
        reached = 0
        for span in spans:
            self._carried.put(span.start - self.start, x_TC[reached : reached + len(span)])
            reached += len(span)

    def _hidden(self, spans: SpanSet) -> Floats | None:
        """What goes into the check layer; None: tokens."""
        if self._carried is None:
            return None
        return np.concatenate([self._carried.get(span.start - self.start, len(span)) for span in spans])


def _positions(spans: SpanSet) -> Positions:
    return np.concatenate([np.empty(0, np.int64), *(np.arange(span.start, span.stop) for span in spans)])
