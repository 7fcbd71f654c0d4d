"""All layers of a step in one call to C++: the same kernels in the same order as op by op, hence the same bits.

A model whose blocks all say what they are made of (``Block.parts``) is described to the kernels once, when it is
loaded; a step then passes a handful of addresses. Reasons: 300 calls from Python cost milliseconds per token, and
values between two operators stay in memory that is reused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from kvloom import _kernels
from kvloom.arrays import Floats, contiguous_address, vector_address
from kvloom.attend.cpu import BoundPlan
from kvloom.attend.plan import LayerPlan
from kvloom.errors import InternalError
from kvloom.model import ops
from kvloom.model.base import Indices, Scores
from kvloom.model.layers import Block, BlockParts, GatedMul, Norm, Projection
from kvloom.model.rope import RopeTable
from kvloom.model.spec import ModelSpec
from kvloom.model.weight import Weight

Found = TypeVar("Found")

_GATES: dict[GatedMul, int] = {ops.silu_mul: 0, ops.gelu_tanh_mul: 1}
"""As ``enum class Gate`` of decoder.h."""


@dataclass(slots=True, eq=False)
class FusedDecoder:
    """Runs what ``parts`` and the other weights describe. They are kept here, since the kernels know addresses only."""

    embed: Weight
    head: Projection
    parts: tuple[BlockParts, ...]
    norm: Norm
    ropes: tuple[RopeTable, ...]
    kernel: _kernels.Decoder
    _layers: tuple[LayerPlan, ...] = ()
    _kv: _kernels.KvPlaces = field(default_factory=_kernels.KvPlaces)

    def hidden(self, tokens_T: Indices, bound: BoundPlan, wanted_R: Indices) -> Floats:
        """Hidden states of the wanted rows, float32 (R, width)."""
        hidden_RC = np.empty((wanted_R.size, self.embed.cols), np.float32)
        self._run(self.kernel.hidden, tokens_T, bound, wanted_R, hidden_RC)
        return hidden_RC

    def scores(self, tokens_T: Indices, bound: BoundPlan, wanted_R: Indices) -> Scores:
        """Vocabulary logits of the wanted rows."""
        logits_RV = np.empty((wanted_R.size, self.head.weight.rows), np.float32)
        return Scores(logits_RV, self._run(self.kernel.scores, tokens_T, bound, wanted_R, logits_RV))

    def logits(self, hidden_RC: Floats) -> Floats:
        """Vocabulary logits, float32 (R, vocabulary)."""
        rows, width = hidden_RC.shape
        weight = self.head.weight
        assert width == weight.cols, f"{width} features meet a matrix of {weight.cols} columns"
        hidden_RC = np.ascontiguousarray(hidden_RC)
        logits_RV = np.empty((rows, weight.rows), np.float32)
        self.kernel.logits(contiguous_address(hidden_RC), rows, logits_RV.ctypes.data)
        return logits_RV

    def _run(
        self,
        kernel: Callable[..., Found],
        tokens_T: Indices,
        bound: BoundPlan,
        wanted_R: Indices,
        out: Floats,
    ) -> Found:
        last = _kernels.last_position(bound.rows)
        for table in self.ropes:
            table.cover(last)
        ropes = [table.addresses for table in self.ropes]
        try:
            return kernel(tokens_T, bound.rows, bound.groups, self._places(bound.plan.layers), ropes, wanted_R, out)
        except (TypeError, ValueError) as error:
            raise InternalError(f"the step does not suit the model: {error}") from None

    def _places(self, layers: tuple[LayerPlan, ...]) -> _kernels.KvPlaces:
        """An engine's plans all share one tuple of layers."""
        if layers is not self._layers:
            kv = _kernels.KvPlaces()
            for layer in layers:
                kv.add(layer.group, layer.slot, layer.owns, layer.scale)
            self._layers, self._kv = layers, kv
        return self._kv


def fuse(
    spec: ModelSpec,
    embed: Weight,
    head: Projection,
    blocks: Sequence[Block],
    norm: Norm,
    ropes: tuple[RopeTable, ...],
    threads: int,
) -> FusedDecoder | None:
    """None when some block cannot be described."""
    parts = [found for block in blocks if (found := block.parts()) is not None and found.mlp.gated in _GATES]
    if len(parts) < len(blocks):
        return None
    kernel = _kernels.Decoder(
        _matrix(embed, None, "float32"),
        _projection(head, embed.cols, head.weight.rows),
        spec.embed_scale,
        _norm_weight(norm, embed.cols),
        threads,
    )
    for part in parts:
        kernel.add_layer(_layer(part, embed.cols, ropes))
    return FusedDecoder(embed, head, tuple(parts), norm, ropes, kernel)


def _layer(parts: BlockParts, width: int, ropes: tuple[RopeTable, ...]) -> _kernels.DecoderLayer:
    attention, mlp = parts.attention, parts.mlp
    q_norm, k_norm = attention.qk_norms or (None, None)
    q_width, kv_width = attention.heads * attention.head_dim, attention.kv_heads * attention.head_dim
    hidden = mlp.down.weight.cols
    halves = [part.rows for part in mlp.gate_up.weight.parts]
    assert halves == [hidden, hidden], f"gate and up have {halves} features where {hidden} are wanted"
    return _kernels.decoder_layer(
        attn_norm=_norm_weight(parts.attn_norm, width),
        q_norm=_norm_weight(q_norm, attention.head_dim),
        k_norm=_norm_weight(k_norm, attention.head_dim),
        post_attn_norm=_norm_weight(parts.post_attn_norm, width),
        mlp_norm=_norm_weight(parts.mlp_norm, width),
        post_mlp_norm=_norm_weight(parts.post_mlp_norm, width),
        qkv=_projection(attention.qkv, width, q_width + 2 * kv_width),
        o=_projection(attention.o, q_width, width),
        gate_up=_projection(mlp.gate_up, width, 2 * hidden),
        down=_projection(mlp.down, hidden, width),
        gate=_GATES[mlp.gated],
        rope=next(index for index, table in enumerate(ropes) if table is attention.rope),
        heads=attention.heads,
        kv_heads=attention.kv_heads,
        head_dim=attention.head_dim,
    )


def _projection(projection: Projection, cols: int, rows: int) -> _kernels.LinearMap:
    weight = projection.weight
    assert (weight.rows, weight.cols) == (rows, cols), f"{weight} where {rows} x {cols} is wanted"
    return _matrix(weight, projection.bias, projection.activations)


def _matrix(weight: Weight, bias_O: Floats | None, activations: ops.Precision) -> _kernels.LinearMap:
    return _kernels.linear_map(
        parts=weight.table.ctypes.data,
        num_parts=len(weight.parts),
        bias=0 if bias_O is None else vector_address(bias_O, weight.rows),
        cols=weight.cols,
        outputs=weight.rows,
        digits=ops.DIGITS[activations],
    )


def _norm_weight(norm: Norm | None, width: int) -> _kernels.NormWeight:
    if norm is None:
        return _kernels.norm_weight(0, 0.0)
    return _kernels.norm_weight(vector_address(norm.weight, width), norm.eps)
