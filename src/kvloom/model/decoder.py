"""A causal decoder: embed, run the blocks, norm and head. The one implementation of ``model.base.Model``."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kvloom.arrays import Floats
from kvloom.attend.base import Attend
from kvloom.attend.cpu import BoundObserver, CpuAttend
from kvloom.attend.observe import NOBODY, Observers, asked_of
from kvloom.attend.plan import Plan
from kvloom.errors import InternalError
from kvloom.model.base import Indices, Logits, Scores
from kvloom.model.fused import FusedDecoder
from kvloom.model.kv_map import KvMap, LayerKv
from kvloom.model.layers import Block, Norm, Projection, Step
from kvloom.model.rope import RopeTable
from kvloom.model.shapes import layer_parameters
from kvloom.model.spec import ModelSpec
from kvloom.model.weight import Weight


def kv_map_of(spec: ModelSpec) -> KvMap:
    """Every layer owns its KV."""
    return KvMap(
        tuple(
            LayerKv(layer, spec.kv_heads, spec.head_dim, spec.head_dim, spec.attn_scale, window)
            for layer, window in enumerate(spec.windows)
        )
    )


@dataclass(frozen=True, slots=True, eq=False)
class Decoder:
    """``embedding`` and ``head`` hold one Weight when they are tied.

    ``fused``: runs a range of layers in one call, if possible. This class does the same operator by operator, bit for
    bit.
    """

    spec: ModelSpec
    weights_id: str
    kv_map: KvMap
    embedding: Weight
    blocks: tuple[Block, ...]
    ropes: tuple[RopeTable, ...]
    norm: Norm
    head: Projection
    threads: int
    fused: FusedDecoder | None

    @property
    def vocab_size(self) -> int:
        return self.spec.vocab_size

    @property
    def query_heads(self) -> int:
        return self.spec.heads

    @property
    def width(self) -> int:
        return self.spec.width

    @property
    def layer_parameters(self) -> int:
        return layer_parameters(self.spec)

    def turn(self, layer: int) -> npt.NDArray[np.float64]:
        return self.blocks[layer].attention.rope.angles

    def output_map(self, layer: int) -> Floats:
        attention = self.blocks[layer].attention
        map_CHD = attention.o.weight.dequantize().reshape(self.spec.width, attention.heads, attention.head_dim)
        return map_CHD.transpose(1, 2, 0)

    @property
    def context_length(self) -> int:
        return self.spec.context_length

    def embed(self, tokens_T: Indices) -> Floats:
        if self.fused is not None:
            return self.fused.embed(tokens_T)
        x_TC = self.embedding.gather(tokens_T, threads=self.threads)
        if self.spec.embed_scale != 1.0:
            x_TC *= np.float32(self.spec.embed_scale)
        return x_TC

    def run(
        self,
        x_TC: Floats,
        plan: Plan,
        attend: Attend,
        layers: range,
        rows_R: Indices | None = None,
        observers: Observers = NOBODY,
    ) -> Floats:
        if layers.step != 1 or not 0 <= layers.start <= layers.stop <= len(self.blocks):
            raise InternalError(f"{layers} of a model with {len(self.blocks)} layers")
        if self.fused is not None and isinstance(attend, CpuAttend):
            return self.fused.run(x_TC, attend.bind(plan), layers, _rows(plan, rows_R), _bound(attend, plan, observers))
        for table in self.ropes:
            table.cover(int(plan.positions_T.max(initial=0)))
        x_TC, step = x_TC.copy(), Step(plan, attend, asked_of(plan, observers) if observers else ())
        for layer in layers:
            x_TC = self.blocks[layer](x_TC, step, layer)
        return x_TC if rows_R is None else x_TC[rows_R]

    def logits(self, x_RC: Floats) -> Logits:
        if self.fused is not None:
            return self.fused.logits(x_RC)
        return self.head(self.norm(np.ascontiguousarray(x_RC)))

    def forward(
        self,
        tokens_T: Indices,
        plan: Plan,
        attend: Attend,
        rows_R: Indices | None = None,
        observers: Observers = NOBODY,
    ) -> Floats:
        if self.fused is not None and isinstance(attend, CpuAttend):
            return self.fused.forward(tokens_T, attend.bind(plan), _rows(plan, rows_R), _bound(attend, plan, observers))
        return self.run(self.embed(tokens_T), plan, attend, range(len(self.blocks)), rows_R, observers)

    def scores(
        self, tokens_T: Indices, plan: Plan, attend: Attend, rows_R: Indices, observers: Observers = NOBODY
    ) -> Scores:
        if self.fused is not None and isinstance(attend, CpuAttend):
            return self.fused.scores(tokens_T, attend.bind(plan), rows_R, _bound(attend, plan, observers))
        return Scores.of(self.logits(self.forward(tokens_T, plan, attend, rows_R, observers)))

    def operator_seconds(self) -> dict[str, float]:
        """Seconds that fused layers have spent so far, by operator. Empty when they run op by op."""
        return {} if self.fused is None else self.fused.kernel.seconds()

    def kv_bytes_read(self) -> int:
        """KV bytes that the attention of fused layers has read so far, shared pages once per step. 0 op by op."""
        return 0 if self.fused is None else self.fused.kernel.kv_bytes_read()


def _bound(attend: CpuAttend, plan: Plan, observers: Observers) -> BoundObserver | None:
    if not observers:
        return None
    asked = asked_of(plan, observers)
    return attend.bind_observer(plan, asked) if asked else None


def _rows(plan: Plan, rows_R: Indices | None) -> Indices:
    return np.arange(plan.num_rows) if rows_R is None else rows_R
