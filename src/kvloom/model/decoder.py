"""A causal decoder: embed, run the blocks, norm. The one implementation of ``model.base.Model``."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from kvloom.attend.base import Attend
from kvloom.attend.plan import Plan
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
    """``embed`` and ``head`` hold one Weight when they are tied."""

    spec: ModelSpec
    weights_id: str
    kv_map: KvMap
    embed: Weight
    blocks: tuple[Block, ...]
    ropes: tuple[RopeTable, ...]
    norm: Norm
    head: Projection
    threads: int

    @property
    def vocab_size(self) -> int:
        return self.spec.vocab_size

    @property
    def context_length(self) -> int:
        return self.spec.context_length

    def forward(self, tokens_T: torch.Tensor, plan: Plan, attend: Attend) -> torch.Tensor:
        last = int(plan.positions_T.max())
        for table in self.ropes:
            table.cover(last)
        x_TC = self.embed.gather(tokens_T, threads=self.threads)
        if self.spec.embed_scale != 1.0:
            x_TC = x_TC.mul_(self.spec.embed_scale)
        step = Step(plan, attend, plan.positions_T.long())
        for layer, block in enumerate(self.blocks):
            x_TC = block(x_TC, step, layer)
        return self.norm(x_TC)

    def logits(self, hidden_RC: torch.Tensor) -> torch.Tensor:
        return self.head(hidden_RC.contiguous())
