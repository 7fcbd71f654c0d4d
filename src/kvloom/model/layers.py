"""The building blocks of every family. Legend: T rows of the step, H query heads, K KV heads, D head dim, C width.

Every operator works row by row in a fixed order of arithmetic, so a token's bits do not depend on its batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from kvloom.arrays import Floats
from kvloom.attend.base import Attend
from kvloom.attend.observe import Asked
from kvloom.attend.plan import Plan
from kvloom.model.ops import Precision, add_rms_norm, linear, rms_norm, rope, silu_mul
from kvloom.model.rope import RopeTable
from kvloom.model.spec import ModelSpec
from kvloom.model.weight import Weight


class GatedMul(Protocol):
    """(T, 2 F) as [gate | up] to act(gate) * up, (T, F)."""

    def __call__(self, gate_up_RF: Floats, threads: int) -> Floats: ...


class Tensors(Protocol):
    """Provides a family's weights, by canonical name."""

    def projection(self, names: tuple[str, ...], bias_names: tuple[str, ...] = ()) -> Projection: ...
    def norm(self, name: str) -> Norm: ...
    def __contains__(self, name: object) -> bool: ...


class Block(Protocol):
    """One layer of the model. May change ``x_TC`` in place, and returns it."""

    def __call__(self, x_TC: Floats, step: Step, layer: int) -> Floats: ...
    def parts(self) -> BlockParts | None:
        """Its parts, if they describe it completely, so that ``fused`` can run it. None: op by op only."""
        ...

    @property
    def attention(self) -> Attention: ...


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """What a layer needs in addition to its weights, and the probes of its attention."""

    plan: Plan
    attend: Attend
    asked: tuple[Asked, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Projection:
    """Linear maps of one input, outputs side by side."""

    weight: Weight
    bias: Floats | None
    threads: int
    activations: Precision

    def __call__(self, x_TC: Floats) -> Floats:
        return linear(x_TC, self.weight, self.bias, self.threads, self.activations)


@dataclass(frozen=True, slots=True, eq=False)
class Norm:
    """RMS norm over the last dimension."""

    weight: Floats
    eps: float
    threads: int

    def __call__(self, x: Floats) -> Floats:
        return rms_norm(x, self.weight, self.eps, self.threads)

    def add(self, x_TC: Floats, delta_TC: Floats) -> Floats:
        """Add ``delta_TC`` to ``x_TC`` in place; return the norm of the sum."""
        return add_rms_norm(x_TC, delta_TC, self.weight, self.eps, self.threads)


@dataclass(frozen=True, slots=True, eq=False)
class Attention:
    """Project, norm q and k where the family does, rotate, write the new KV, attend, update probes, project back."""

    qkv: Projection
    o: Projection
    qk_norms: tuple[Norm, Norm] | None
    rope: RopeTable
    heads: int
    kv_heads: int
    head_dim: int

    def __call__(self, x_TC: Floats, step: Step, layer: int) -> Floats:
        rows, heads = len(x_TC), self.heads + 2 * self.kv_heads
        qkv_TXD = self.qkv(x_TC).reshape(rows, heads, self.head_dim)
        q_THD, k_TKD = qkv_TXD[:, : self.heads], qkv_TXD[:, self.heads : -self.kv_heads]
        if self.qk_norms is not None:
            q_THD, k_TKD = self.qk_norms[0](q_THD), self.qk_norms[1](k_TKD)
        for part in (q_THD, k_TKD):
            rope(part, step.plan.positions_T, self.rope.cos, self.rope.sin, self.qkv.threads)
        if step.plan.layers[layer].owns:
            v_TKD = qkv_TXD[:, -self.kv_heads :]
            step.attend.write(np.ascontiguousarray(k_TKD), np.ascontiguousarray(v_TKD), step.plan, layer)
        q_THD = np.ascontiguousarray(q_THD)
        out_THD, lse_TH = step.attend.attend(q_THD, step.plan, layer)
        if step.asked:
            step.attend.observe(q_THD, lse_TH, step.plan, layer, step.asked)
        return self.o(out_THD.reshape(rows, self.heads * self.head_dim))


@dataclass(frozen=True, slots=True, eq=False)
class GatedMlp:
    """down(act(gate(x)) * up(x))."""

    gate_up: Projection
    down: Projection
    gated: GatedMul

    def __call__(self, x_TC: Floats) -> Floats:
        return self.down(self.gated(self.gate_up(x_TC), self.down.threads))


@dataclass(frozen=True, slots=True, eq=False)
class BlockParts:
    """x += post_attn_norm(attention(attn_norm(x))); x += post_mlp_norm(mlp(mlp_norm(x))). None: no norm there."""

    attn_norm: Norm
    attention: Attention
    mlp_norm: Norm
    mlp: GatedMlp
    post_attn_norm: Norm | None = None
    post_mlp_norm: Norm | None = None


@dataclass(frozen=True, slots=True, eq=False)
class PreNormBlock:
    """x += attention(norm(x)); x += mlp(norm(x))."""

    attn_norm: Norm
    attention: Attention
    mlp_norm: Norm
    mlp: GatedMlp

    def __call__(self, x_TC: Floats, step: Step, layer: int) -> Floats:
        delta_TC = self.attention(self.attn_norm(x_TC), step, layer)
        x_TC += self.mlp(self.mlp_norm.add(x_TC, delta_TC))
        return x_TC

    def parts(self) -> BlockParts:
        return BlockParts(self.attn_norm, self.attention, self.mlp_norm, self.mlp)


def attention(spec: ModelSpec, tensors: Tensors, layer: int, rope_table: RopeTable) -> Attention:
    """Attention of one layer, with biases and q/k norms if the file has them."""
    at = f"layers.{layer}."
    biases = tuple(f"{at}{name}_bias" for name in "qkv") if f"{at}q_bias" in tensors else ()
    o_bias = (f"{at}o_bias",) if f"{at}o_bias" in tensors else ()
    normed = f"{at}q_norm" in tensors
    return Attention(
        qkv=tensors.projection(tuple(f"{at}{name}" for name in "qkv"), biases),
        o=tensors.projection((f"{at}o",), o_bias),
        qk_norms=(tensors.norm(f"{at}q_norm"), tensors.norm(f"{at}k_norm")) if normed else None,
        rope=rope_table,
        heads=spec.heads,
        kv_heads=spec.kv_heads,
        head_dim=spec.head_dim,
    )


def gated_mlp(tensors: Tensors, layer: int, gated: GatedMul) -> GatedMlp:
    at = f"layers.{layer}."
    return GatedMlp(tensors.projection((f"{at}gate", f"{at}up")), tensors.projection((f"{at}down",)), gated)


def pre_norm_block(spec: ModelSpec, tensors: Tensors, layer: int, rope_table: RopeTable) -> PreNormBlock:
    """The layer of Llama, Mistral and Qwen."""
    at = f"layers.{layer}."
    return PreNormBlock(
        attn_norm=tensors.norm(f"{at}attn_norm"),
        attention=attention(spec, tensors, layer, rope_table),
        mlp_norm=tensors.norm(f"{at}mlp_norm"),
        mlp=gated_mlp(tensors, layer, silu_mul),
    )
