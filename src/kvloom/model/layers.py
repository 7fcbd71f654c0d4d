"""The parts that every family is made of. Legend: T rows of the step, H query heads, K KV heads, D head dim, C width.

Every operator works row by row in a fixed order of arithmetic, so a token's bits do not depend on its batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from kvloom.attend.base import Attend
from kvloom.attend.plan import Plan
from kvloom.model.ops import rms_norm, rope, silu_mul
from kvloom.model.rope import RopeTable
from kvloom.model.spec import ModelSpec
from kvloom.model.weight import Weight, linear

GatedMul = Callable[[torch.Tensor], torch.Tensor]
"""(T, 2 F) as [gate | up] to act(gate) * up, (T, F)."""


class Tensors(Protocol):
    """Where a family takes its weights from, by canonical name."""

    def projection(self, names: tuple[str, ...], bias_names: tuple[str, ...] = ()) -> Projection: ...
    def norm(self, name: str) -> Norm: ...
    def __contains__(self, name: object) -> bool: ...


class Block(Protocol):
    """One layer of the model."""

    def __call__(self, x_TC: torch.Tensor, step: Step, layer: int) -> torch.Tensor: ...


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """What a layer needs beside its weights."""

    plan: Plan
    attend: Attend


@dataclass(frozen=True, slots=True, eq=False)
class Projection:
    """Linear maps of one input, outputs side by side. One weight where the file's types allow, else one per type."""

    weights: tuple[Weight, ...]
    bias: torch.Tensor | None
    threads: int

    def __call__(self, x_TC: torch.Tensor) -> torch.Tensor:
        if len(self.weights) == 1:
            return linear(x_TC, self.weights[0], self.bias, self.threads)
        out = torch.cat([linear(x_TC, weight, None, self.threads) for weight in self.weights], dim=-1)
        return out if self.bias is None else out.add_(self.bias)


@dataclass(frozen=True, slots=True, eq=False)
class Norm:
    """RMS norm over the last dimension."""

    weight: torch.Tensor
    eps: float

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return rms_norm(x, self.weight, self.eps)


@dataclass(frozen=True, slots=True, eq=False)
class Attention:
    """Project, norm q and k where the family does, rotate, write the new KV, attend, project back."""

    qkv: Projection
    o: Projection
    q_norm: Norm | None
    k_norm: Norm | None
    rope: RopeTable
    heads: int
    kv_heads: int
    head_dim: int

    def __call__(self, x_TC: torch.Tensor, step: Step, layer: int) -> torch.Tensor:
        q_size, kv_size = self.heads * self.head_dim, self.kv_heads * self.head_dim
        q, k, v = (part.contiguous() for part in self.qkv(x_TC).split((q_size, kv_size, kv_size), dim=-1))
        q_THD, k_TKD, v_TKD = (part.view(len(x_TC), -1, self.head_dim) for part in (q, k, v))
        if self.q_norm is not None and self.k_norm is not None:
            q_THD, k_TKD = self.q_norm(q_THD), self.k_norm(k_TKD)
        for part in (q_THD, k_TKD):
            rope(part, step.plan.positions_T, self.rope.cos, self.rope.sin)
        if step.plan.layers[layer].writes is not None:
            step.attend.write(k_TKD, v_TKD, step.plan, layer)
        out_THD, _ = step.attend.attend(q_THD, step.plan, layer)
        return self.o(out_THD.reshape(len(x_TC), q_size))


@dataclass(frozen=True, slots=True, eq=False)
class GatedMlp:
    """down(act(gate(x)) * up(x))."""

    gate_up: Projection
    down: Projection
    gated: GatedMul

    def __call__(self, x_TC: torch.Tensor) -> torch.Tensor:
        return self.down(self.gated(self.gate_up(x_TC)))


@dataclass(frozen=True, slots=True, eq=False)
class PreNormBlock:
    """x += attention(norm(x)); x += mlp(norm(x))."""

    attn_norm: Norm
    attention: Attention
    mlp_norm: Norm
    mlp: GatedMlp

    def __call__(self, x_TC: torch.Tensor, step: Step, layer: int) -> torch.Tensor:
        x_TC = x_TC + self.attention(self.attn_norm(x_TC), step, layer)
        return x_TC + self.mlp(self.mlp_norm(x_TC))


def attention(spec: ModelSpec, tensors: Tensors, layer: int, rope_table: RopeTable) -> Attention:
    """Attention of one layer; biases and q/k norms are used where the file has them."""
    at = f"layers.{layer}."
    biases = tuple(f"{at}{name}_bias" for name in "qkv") if f"{at}q_bias" in tensors else ()
    o_bias = (f"{at}o_bias",) if f"{at}o_bias" in tensors else ()
    normed = f"{at}q_norm" in tensors
    return Attention(
        qkv=tensors.projection(tuple(f"{at}{name}" for name in "qkv"), biases),
        o=tensors.projection((f"{at}o",), o_bias),
        q_norm=tensors.norm(f"{at}q_norm") if normed else None,
        k_norm=tensors.norm(f"{at}k_norm") if normed else None,
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
