"""A range of layers in one call to C++: the same kernels in the same order as op by op, so the bits are the same.

A model whose blocks all declare their parts (``Block.parts``) is described to the kernels once, when it is loaded; a
step then passes a handful of addresses. This saves 300 calls from Python, which cost milliseconds per token, and
keeps intermediate values in reused memory. A whole step, from tokens to scores, is one call too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from kvloom import _kernels
from kvloom.arrays import Floats, vector_address
from kvloom.attend.cpu import BoundObserver, BoundPlan
from kvloom.attend.plan import LayerPlan
from kvloom.errors import InternalError
from kvloom.model import ops
from kvloom.model.base import Indices, Logits, Scores
from kvloom.model.layers import Block, BlockParts, GatedMul, Norm, Projection
from kvloom.model.rope import RopeTable
from kvloom.model.spec import ModelSpec
from kvloom.model.weight import Weight

Found = TypeVar("Found")

_GATES: dict[GatedMul, int] = {ops.silu_mul: 0, ops.gelu_tanh_mul: 1}
"""As ``enum class Gate`` of decoder.h."""


@dataclass(slots=True, eq=False)
class FusedDecoder:
    """Runs the layers that ``parts`` describes. Keeps the weights alive, since the kernels hold addresses only."""

    embedding: Weight
    head: Projection
    parts: tuple[BlockParts, ...]
    norm: Norm
    ropes: tuple[RopeTable, ...]
    kernel: _kernels.Decoder
    _layers: tuple[LayerPlan, ...] = ()
    _kv: _kernels.KvPlaces = field(default_factory=_kernels.KvPlaces)

    def embed(self, tokens_T: Indices) -> Floats:
        """See ``Model.embed``."""
        x_TC = self._residual(tokens_T.size)
        _call(self.kernel.embed, tokens_T, x_TC)
        return x_TC

    def run(
        self, x_TC: Floats, bound: BoundPlan, layers: range, rows_R: Indices, observer: BoundObserver | None = None
    ) -> Floats:
        """See ``Model.run``."""
        x_TC, x_RC = np.ascontiguousarray(x_TC), self._residual(rows_R.size)
        self._run(self.kernel.run, x_TC, bound, rows_R, observer, x_RC, layers.start, layers.stop)
        return x_RC

    def forward(
        self, tokens_T: Indices, bound: BoundPlan, rows_R: Indices, observer: BoundObserver | None = None
    ) -> Floats:
        """See ``Model.forward``."""
        x_RC = self._residual(rows_R.size)
        self._run(self.kernel.forward, tokens_T, bound, rows_R, observer, x_RC)
        return x_RC

    def scores(
        self, tokens_T: Indices, bound: BoundPlan, rows_R: Indices, observer: BoundObserver | None = None
    ) -> Scores:
        """See ``Model.scores``."""
        logits_RV = np.empty((rows_R.size, self.head.weight.rows), np.float32)
        return Scores(logits_RV, self._run(self.kernel.scores, tokens_T, bound, rows_R, observer, logits_RV))

    def logits(self, x_RC: Floats) -> Logits:
        """See ``Model.logits``."""
        logits_RV = np.empty((len(x_RC), self.head.weight.rows), np.float32)
        _call(self.kernel.logits, np.ascontiguousarray(x_RC), logits_RV)
        return logits_RV

    def _residual(self, rows: int) -> Floats:
        return np.empty((rows, self.embedding.cols), np.float32)

    def _run(
        self,
        kernel: Callable[..., Found],
        entering: Indices | Floats,
        bound: BoundPlan,
        rows_R: Indices,
        observer: BoundObserver | None,
        out: Floats,
        *layers: int,
    ) -> Found:
        last = _kernels.last_position(bound.rows)
        for table in self.ropes:
            table.cover(last)
        ropes = [table.addresses for table in self.ropes]
        kv = self._places(bound.plan.layers)
        asked = None if observer is None else observer.kernel
        return _call(kernel, entering, bound.rows, bound.groups, kv, ropes, rows_R, asked, out, *layers)

    def _places(self, layers: tuple[LayerPlan, ...]) -> _kernels.KvPlaces:
        """An engine's plans all share one tuple of layers."""
        if layers is not self._layers:
            kv = _kernels.KvPlaces()
            for layer in layers:
                kv.add(layer.group, layer.slot, layer.owns, layer.scale)
            self._layers, self._kv = layers, kv
        return self._kv


def _call(kernel: Callable[..., Found], *arguments: object) -> Found:
    try:
        return kernel(*arguments)
    except (TypeError, ValueError) as error:
        raise InternalError(f"the step does not match the model: {error}") from None


def fuse(
    spec: ModelSpec,
    embedding: Weight,
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
        _matrix(embedding, None, "float32"),
        _projection(head, embedding.cols, head.weight.rows),
        spec.embed_scale,
        _norm_weight(norm, embedding.cols),
        threads,
    )
    for part in parts:
        kernel.add_layer(_layer(part, embedding.cols, ropes))
    return FusedDecoder(embedding, head, tuple(parts), norm, ropes, kernel)


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
        planes=ops.PLANES[activations],
    )


def _norm_weight(norm: Norm | None, width: int) -> _kernels.NormWeight:
    if norm is None:
        return _kernels.norm_weight(0, 0.0)
    return _kernels.norm_weight(vector_address(norm.weight, width), norm.eps)
