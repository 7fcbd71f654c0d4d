"""A causal decoder: embed, run the blocks, norm. The one implementation of ``model.base.Model``."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kvloom.arrays import Floats
from kvloom.attend.base import Attend
from kvloom.attend.cpu import CpuAttend
from kvloom.attend.plan import Plan
from kvloom.model.base import Indices, Logits, Scores
from kvloom.model.fused import FusedDecoder
from kvloom.model.kv_map import KvMap, LayerKv
from kvloom.model.layers import Block, Norm, Projection, Step
from kvloom.model.rope import RopeTable
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
    """``embed`` and ``head`` hold one Weight when they are tied. ``fused``: all layers in one call, if possible."""

    spec: ModelSpec
    weights_id: str
    kv_map: KvMap
    embed: Weight
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
    def context_length(self) -> int:
        return self.spec.context_length

    def forward(self, tokens_T: Indices, plan: Plan, attend: Attend, wanted_R: Indices | None = None) -> Floats:
        if self.fused is None or not isinstance(attend, CpuAttend):
            return self.op_by_op(tokens_T, plan, attend, wanted_R)
        rows_R = np.arange(plan.num_rows) if wanted_R is None else wanted_R
        return self.fused.hidden(tokens_T, attend.bind(plan), rows_R)

    def scores(self, tokens_T: Indices, plan: Plan, attend: Attend, wanted_R: Indices) -> Scores:
        if self.fused is not None and isinstance(attend, CpuAttend):
            return self.fused.scores(tokens_T, attend.bind(plan), wanted_R)
        return Scores.of(self.logits(self.op_by_op(tokens_T, plan, attend, wanted_R)))

    def op_by_op(self, tokens_T: Indices, plan: Plan, attend: Attend, wanted_R: Indices | None = None) -> Floats:
        """``forward``, spelled out: what the fused layers must equal bit for bit."""
        for table in self.ropes:
            table.cover(int(plan.positions_T.max()))
        x_TC = self.embed.gather(tokens_T, threads=self.threads)
        if self.spec.embed_scale != 1.0:
            x_TC *= np.float32(self.spec.embed_scale)
        step = Step(plan, attend)
        for layer, block in enumerate(self.blocks):
            x_TC = block(x_TC, step, layer)
        return self.norm(x_TC if wanted_R is None else x_TC[wanted_R])

    def operator_seconds(self) -> dict[str, float]:
        """Seconds that fused layers have spent so far, by operator. Empty when they run op by op."""
        return {} if self.fused is None else self.fused.kernel.seconds()

    def kv_bytes_read(self) -> int:
        """KV bytes that the attention of fused layers has read so far; what a step shares counts once. 0 op by op."""
        return 0 if self.fused is None else self.fused.kernel.kv_bytes_read()

    def logits(self, hidden_RC: Floats) -> Logits:
        if self.fused is not None:
            return self.fused.logits(hidden_RC)
        return self.head(np.ascontiguousarray(hidden_RC))
