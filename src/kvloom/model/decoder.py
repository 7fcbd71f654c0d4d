"""A causal decoder: embed, run the blocks, norm. The one implementation of ``model.base.Model``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from kvloom.attend.base import Attend
from kvloom.attend.cpu import CpuAttend
from kvloom.attend.plan import Plan
from kvloom.model.base import Indices, Scores
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


@contextmanager
def torch_on_one_core() -> Iterator[None]:
    """Keep torch's own threads asleep: they would spin for the cores that the kernels' team is using.

    What torch does between kernels is small copies; the setting is the calling thread's, and is put back.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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

    def forward(
        self, tokens_T: torch.Tensor, plan: Plan, attend: Attend, wanted_R: torch.Tensor | None = None
    ) -> torch.Tensor:
        if self.fused is None or not isinstance(attend, CpuAttend):
            return self.op_by_op(tokens_T, plan, attend, wanted_R)
        rows_R = np.arange(plan.num_rows) if wanted_R is None else wanted_R.numpy()
        return torch.from_numpy(self.fused.hidden(tokens_T.numpy(), attend.bind(plan), rows_R))

    def scores(self, tokens_T: Indices, plan: Plan, attend: Attend, wanted_R: Indices) -> Scores:
        if self.fused is not None and isinstance(attend, CpuAttend):
            return self.fused.scores(tokens_T, attend.bind(plan), wanted_R)
        tokens, wanted = torch.from_numpy(tokens_T), torch.from_numpy(wanted_R)
        return Scores.of(self.logits(self.op_by_op(tokens, plan, attend, wanted)).numpy())

    @torch_on_one_core()
    def op_by_op(
        self, tokens_T: torch.Tensor, plan: Plan, attend: Attend, wanted_R: torch.Tensor | None = None
    ) -> torch.Tensor:
        """``forward``, spelled out: what the fused layers must equal bit for bit."""
        positions_T = torch.from_numpy(plan.positions_T)
        for table in self.ropes:
            table.cover(int(positions_T.max()))
        x_TC = self.embed.gather(tokens_T, threads=self.threads)
        if self.spec.embed_scale != 1.0:
            x_TC = x_TC.mul_(self.spec.embed_scale)
        step = Step(plan, attend, positions_T)
        for layer, block in enumerate(self.blocks):
            x_TC = block(x_TC, step, layer)
        return self.norm(x_TC if wanted_R is None else x_TC[wanted_R])

    def operator_seconds(self) -> dict[str, float]:
        """Seconds that fused layers have spent so far, by operator. Empty when they run op by op."""
        return {} if self.fused is None else self.fused.kernel.seconds()

    def kv_bytes_read(self) -> int:
        """KV bytes that the attention of fused layers has read so far; what a step shares counts once. 0 op by op."""
        return 0 if self.fused is None else self.fused.kernel.kv_bytes_read()

    def logits(self, hidden_RC: torch.Tensor) -> torch.Tensor:
        if self.fused is not None:
            return self.fused.logits(hidden_RC)
        return self.head(hidden_RC.contiguous())
